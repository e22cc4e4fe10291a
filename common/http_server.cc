#include "common/http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "civetweb.h"
#include "common/address.h"
#include "common/status.h"
#include "common/text.h"
#include "common/version.h"
#include "prometheus/text_serializer.h"

namespace turbofleet {
namespace {

constexpr char kPlainText[] = "text/plain; charset=utf-8";
// The version of the exposition format, which Prometheus looks for.
constexpr char kMetricsText[] = "text/plain; version=0.0.4; charset=utf-8";

struct Response {
  int code = 200;
  std::string type = kPlainText;
  std::string body;
};

const char* ReasonPhrase(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

// civetweb takes numeric addresses only.
absl::StatusOr<HostPort> Resolve(const HostPort& address) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), nullptr, &hints, &found);
  if (error != 0) return absl::UnavailableError(absl::StrCat(address.host, ": ", gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  std::array<char, INET6_ADDRSTRLEN> text;
  if (getnameinfo(found->ai_addr, found->ai_addrlen, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
    return absl::UnavailableError(absl::StrCat(address.host, ": no numeric address"));
  }
  return HostPort{text.data(), address.port};
}

class CivetHttpServer : public HttpServer {
 public:
  CivetHttpServer(const Options& options, std::shared_ptr<prometheus::Registry> registry)
      : ready_(options.ready), program_(options.program), collectables_(options.collectables) {
    if (registry != nullptr) collectables_.push_back(std::move(registry));
    collectables_.push_back(MakeProcessCollector(options.program));
  }

  ~CivetHttpServer() override {
    if (context_ != nullptr) mg_stop(context_);
  }

  int port() const override { return port_; }

  absl::Status Listen(const Options& options) {
    TURBOFLEET_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort("http-listen", options.listen));
    absl::StatusOr<HostPort> resolved = Resolve(address);
    if (!resolved.ok()) return Annotate(resolved.status(), absl::StrCat("cannot listen at ", options.listen));
    static std::once_flag library;
    std::call_once(library, [] { mg_init_library(MG_FEATURES_DEFAULT); });
    const std::string listen = FormatHostPort(*resolved);
    const std::string threads = absl::StrCat(options.threads);
    const std::array<const char*, 11> settings = {"listening_ports",
                                                  listen.c_str(),
                                                  "num_threads",
                                                  threads.c_str(),
                                                  "request_timeout_ms",
                                                  "10000",
                                                  "enable_keep_alive",
                                                  "no",
                                                  "tcp_nodelay",
                                                  "1",
                                                  nullptr};
    mg_callbacks callbacks = {};
    callbacks.log_message = [](const mg_connection*, const char*) { return 1; };  // The status says it.
    context_ = mg_start(&callbacks, this, const_cast<const char**>(settings.data()));
    if (context_ == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot listen at ", options.listen, ": is the port taken?"));
    }
    mg_server_port bound = {};
    if (mg_get_server_ports(context_, 1, &bound) != 1) {
      return absl::UnavailableError(absl::StrCat("cannot listen at ", options.listen));
    }
    port_ = bound.port;
    mg_set_request_handler(context_, "/**", &CivetHttpServer::Handle, this);
    return absl::OkStatus();
  }

 private:
  static int Handle(mg_connection* connection, void* self) {
    const mg_request_info* request = mg_get_request_info(connection);
    const std::string_view method = request->request_method;
    const bool head = method == "HEAD";
    Response response;
    if (method == "GET" || head) {
      response = static_cast<const CivetHttpServer*>(self)->Answer(request->local_uri);
    } else {
      response = {.code = 405, .body = "Only GET and HEAD are answered.\n"};
    }
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
              "X-Content-Type-Options: nosniff\r\nConnection: close\r\n%s\r\n",
              response.code, ReasonPhrase(response.code), response.type.c_str(), response.body.size(),
              response.code == 405 ? "Allow: GET, HEAD\r\n" : "");
    if (!head) mg_write(connection, response.body.data(), response.body.size());
    return response.code;
  }

  Response Answer(std::string_view path) const {
    if (path == "/metrics") return {.type = kMetricsText, .body = Metrics()};
    if (path == "/healthz") return {.body = "ok\n"};
    if (path == "/readyz") {
      if (ready_ == nullptr || ready_()) return {.body = "ready\n"};
      return {.code = 503, .body = "not ready\n"};
    }
    if (path == "/version") {
      return {.type = "application/json",
              .body = absl::StrCat("{\"program\":", JsonQuote(program_), ",\"version\":", JsonQuote(TURBOFLEET_VERSION),
                                   "}\n")};
    }
    return {.code = 404, .body = "There are /metrics, /healthz, /readyz and /version.\n"};
  }

  std::string Metrics() const {
    std::vector<prometheus::MetricFamily> families;
    for (const std::shared_ptr<prometheus::Collectable>& collectable : collectables_) {
      std::vector<prometheus::MetricFamily> more = collectable->Collect();
      families.insert(families.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    return prometheus::TextSerializer().Serialize(families);
  }

  // Constant after Listen().
  const std::function<bool()> ready_;
  const std::string program_;
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables_;
  mg_context* context_ = nullptr;
  int port_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options,
                                                              std::shared_ptr<prometheus::Registry> registry) {
  auto server = std::make_unique<CivetHttpServer>(options, std::move(registry));
  TURBOFLEET_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace turbofleet
