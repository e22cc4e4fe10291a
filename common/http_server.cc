#include "common/http_server.h"

#include <httplib.h>

#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/address.h"
#include "common/status.h"
#include "common/text.h"
#include "common/version.h"
#include "prometheus/text_serializer.h"

namespace turbofleet {
namespace {

constexpr char kPlainText[] = "text/plain; charset=utf-8";
// A peer that is slower than this, in seconds, is given up.
constexpr time_t kPatience = 10;
// The version of the exposition format, which Prometheus looks for.
constexpr char kMetricsText[] = "text/plain; version=0.0.4; charset=utf-8";

struct Response {
  int code = 200;
  std::string type = kPlainText;
  std::string body;
};

// The library's own choice is SO_REUSEPORT, with which two programs would silently share a port.
void SetSocketOptions(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

class HttplibServer : public HttpServer {
 public:
  HttplibServer(const Options& options, std::shared_ptr<prometheus::Registry> registry)
      : ready_(options.ready), program_(options.program), collectables_(options.collectables) {
    if (registry != nullptr) collectables_.push_back(std::move(registry));
    collectables_.push_back(MakeProcessCollector(options.program));
    server_.set_socket_options(SetSocketOptions);
    server_.set_tcp_nodelay(true);
    server_.set_keep_alive_max_count(1);
    server_.set_read_timeout(kPatience);
    server_.set_write_timeout(kPatience);
    server_.set_payload_max_length(0);
    server_.set_default_headers({{"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}});
    server_.new_task_queue = [threads = options.threads] { return new httplib::ThreadPool(threads); };
    server_.Get(".*", [this](const httplib::Request& request, httplib::Response& reply) {
      const Response response = Answer(request.path);
      reply.status = response.code;
      reply.set_content(response.body, response.type);
    });
    // Before the library waits for a body that nobody wants.
    server_.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& reply) {
      if (request.method == "GET" || request.method == "HEAD") return httplib::Server::HandlerResponse::Unhandled;
      reply.status = 405;
      reply.set_header("Allow", "GET, HEAD");
      reply.set_content("Only GET and HEAD are answered.\n", kPlainText);
      return httplib::Server::HandlerResponse::Handled;
    });
  }

  ~HttplibServer() override {
    if (!thread_.joinable()) return;
    server_.stop();
    thread_.join();
  }

  int port() const override { return port_; }

  absl::Status Listen(const Options& options) {
    TURBOFLEET_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort("http-listen", options.listen));
    if (address.port == 0) {
      port_ = server_.bind_to_any_port(address.host);
    } else {
      port_ = server_.bind_to_port(address.host, address.port) ? address.port : -1;
    }
    if (port_ <= 0) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen at ", options.listen, ": is the port taken, or the host another machine's?"));
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    // A stop() before the thread has got that far would be lost; it is a matter of microseconds.
    while (!server_.is_running()) std::this_thread::yield();
    return absl::OkStatus();
  }

 private:
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
  int port_ = 0;
  httplib::Server server_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options,
                                                              std::shared_ptr<prometheus::Registry> registry) {
  auto server = std::make_unique<HttplibServer>(options, std::move(registry));
  TURBOFLEET_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace turbofleet
