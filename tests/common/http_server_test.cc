#include "common/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "prometheus/counter.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Sends bytes over a socket of its own and returns all that comes back: as close to a foreign client as it gets.
std::string Exchange(int port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string reply;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t got; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) reply.append(buffer, got);
  }
  close(fd);
  return reply;
}

std::string Request(int port, const std::string& method, const std::string& path) {
  return Exchange(port, absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
}

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto& family = prometheus::BuildCounter().Name("pictures_total").Help("Pictures.").Register(*registry_);
    family.Add({{"outcome", "made"}}).Increment(3);
    absl::StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Start(
        {.listen = "localhost:0", .ready = [this] { return ready_.load(); }, .program = "painter"}, registry_);
    TURBOFLEET_ASSERT_OK(server);
    server_ = *std::move(server);
  }

  std::string Get(const std::string& path) { return Request(server_->port(), "GET", path); }

  std::atomic<bool> ready_ = false;
  std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, MetricsAreTheRegistrysAndTheProcesss) {
  const std::string reply = Get("/metrics");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(reply, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_THAT(reply, HasSubstr("# TYPE pictures_total counter\npictures_total{outcome=\"made\"} 3\n"));
  EXPECT_THAT(reply, HasSubstr("turbofleet_build_info{program=\"painter\",version=\""));
  for (const char* name : {"process_cpu_seconds_total", "process_start_time_seconds", "process_virtual_memory_bytes",
                           "process_resident_memory_bytes", "process_threads", "process_open_fds", "process_max_fds"}) {
    EXPECT_THAT(reply, HasSubstr(absl::StrCat("# TYPE ", name, " "))) << name;
  }
}

// The fields of /proc are counted by hand, so compare with what the system says elsewhere.
TEST_F(HttpServerTest, ProcessMetricsArePlausible) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : MakeProcessCollector("painter")->Collect()) {
    values[family.name] =
        family.type == prometheus::MetricType::Counter ? family.metric[0].counter.value : family.metric[0].gauge.value;
  }
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_GT(values["process_start_time_seconds"], now - 600);
  EXPECT_LT(values["process_start_time_seconds"], now + 5);
  EXPECT_GT(values["process_resident_memory_bytes"], 1 << 20);
  EXPECT_GT(values["process_virtual_memory_bytes"], values["process_resident_memory_bytes"]);
  EXPECT_GE(values["process_threads"], 4);
  EXPECT_LT(values["process_threads"], 100);
  EXPECT_GE(values["process_open_fds"], 4);
  EXPECT_GE(values["process_cpu_seconds_total"], 0);
  EXPECT_LT(values["process_cpu_seconds_total"], 600);
}

TEST_F(HttpServerTest, ReadinessIsAskedEachTime) {
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Get("/readyz"), AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("\r\n\r\nnot ready\n")));
  ready_ = true;
  EXPECT_THAT(Get("/readyz"), AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("\r\n\r\nready\n")));
  ready_ = false;
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503 "));
}

TEST_F(HttpServerTest, VersionIsJson) {
  EXPECT_THAT(Get("/version"),
              AllOf(HasSubstr("Content-Type: application/json"), HasSubstr("{\"program\":\"painter\",\"version\":\"")));
}

TEST_F(HttpServerTest, EverythingElseIsRefusedAndTheServerLives) {
  for (const char* path : {"/", "/metrics/x", "/../../etc/passwd", "/%2e%2e/etc/passwd", "/metricsx", "//"}) {
    EXPECT_THAT(Get(path), AllOf(::testing::ContainsRegex("^HTTP/1.1 4[0-9][0-9] "), Not(HasSubstr("root:")))) << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS"}) {
    EXPECT_THAT(Request(server_->port(), method, "/metrics"), StartsWith("HTTP/1.1 405 ")) << method;
  }
  Exchange(server_->port(), absl::StrCat("GET /", std::string(100'000, 'a'), " HTTP/1.1\r\n\r\n"));
  Exchange(server_->port(), std::string("\0\xFF\r\n\r\n", 6));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, HeadHasTheHeadersAlone) {
  const std::string reply = Request(server_->port(), "HEAD", "/healthz");
  EXPECT_THAT(reply, AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Length: 3\r\n")));
  EXPECT_TRUE(absl::EndsWith(reply, "\r\n\r\n")) << reply;
}

TEST_F(HttpServerTest, ATakenPortIsAnErrorThatNamesTheAddress) {
  const std::string address = absl::StrCat("127.0.0.1:", server_->port());
  EXPECT_THAT(HttpServer::Start({.listen = address}, registry_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(address)));
}

TEST_F(HttpServerTest, AddressesThatCannotBeAreRefused) {
  for (const char* address : {"", "9090", "localhost", "localhost:x", "localhost:70000"}) {
    EXPECT_THAT(HttpServer::Start({.listen = address}, registry_), StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
  }
  EXPECT_THAT(HttpServer::Start({.listen = "no-such-host.invalid:0"}, registry_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no-such-host.invalid")));
  // An address of a documentation network, which this machine does not have.
  EXPECT_THAT(HttpServer::Start({.listen = "192.0.2.1:0"}, registry_),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("192.0.2.1")));
}

}  // namespace
}  // namespace turbofleet
