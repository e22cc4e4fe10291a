// turbofleet-coordinator: wires the layers together and sees them through their life.
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/credentials.h"
#include "common/flags.h"
#include "common/http_server.h"
#include "common/random.h"
#include "common/signals.h"
#include "common/status.h"
#include "common/version.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/ticker.h"
#include "coordinator/metrics/coordinator_metrics.h"
#include "coordinator/options.h"
#include "coordinator/service/coordinator_server.h"
#include "coordinator/store/data_dir.h"
#include "prometheus/registry.h"

namespace turbofleet {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
// Time for streams to carry their last messages, once everything is over.
constexpr absl::Duration kCloseGrace = absl::Seconds(5);
constexpr absl::Duration kHurriedGrace = absl::Milliseconds(200);

// How many signals have asked the program to end. Thread-safe.
class EndRequests {
 public:
  void Set(int count) {
    absl::MutexLock lock(&mu_);
    count_ = count;
  }
  int count() const {
    absl::MutexLock lock(&mu_);
    return count_;
  }
  void AwaitFirst() const {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(this, &EndRequests::Any));
  }

 private:
  bool Any() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return count_ > 0; }
  mutable absl::Mutex mu_;
  int count_ ABSL_GUARDED_BY(mu_) = 0;
};

// The address with the port that is bound in place of 0.
std::string BoundAddress(const std::string& listen, int port) {
  HostPort address = *ParseHostPort("the address", listen);
  address.port = port;
  return FormatHostPort(address);
}

// Whole or not at all: whoever waits for the file may read it as soon as it is there.
absl::Status WriteAddressFile(const std::string& path, const std::string& grpc, const std::string& http) {
  const std::string part = path + ".part";
  {
    std::ofstream file(part, std::ios::trunc);
    file << "grpc=" << grpc << "\nhttp=" << http << "\n";
    file.close();
    if (!file) return absl::UnavailableError("--address-file: cannot write " + part);
  }
  if (std::rename(part.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError("--address-file: cannot write " + path);
  }
  return absl::OkStatus();
}

// Lets running jobs finish for a while; a second signal ends the patience.
void Drain(const CoordinatorOptions& options, const EndRequests& ends, Logger& logger, Dispatcher& dispatcher,
           CoordinatorServer& server) {
  logger.Info("draining", {{"timeout", absl::FormatDuration(options.drain_timeout)}});
  server.SetNotServing();
  dispatcher.BeginDrain();
  const absl::Time deadline = absl::Now() + options.drain_timeout;
  bool idle = dispatcher.AwaitIdle(absl::ZeroDuration());
  while (!idle && ends.count() < 2 && absl::Now() < deadline) idle = dispatcher.AwaitIdle(kTick);
  logger.Info(idle ? "drained" : "not drained: ending the jobs that are left");
  dispatcher.Shutdown();
  server.Shutdown(ends.count() < 2 ? kCloseGrace : kHurriedGrace);
}

absl::Status Run(const CoordinatorOptions& options, const EndRequests& ends, Logger& logger) {
  std::unique_ptr<DataDir> data_dir;
  if (!options.data_dir.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(data_dir, DataDir::Open(options.data_dir));
  }
  CoordinatorServer::Options server_options = {.listen = options.listen, .credentials = nullptr, .limits = {}};
  TURBOFLEET_ASSIGN_OR_RETURN(server_options.credentials, MakeServerCredentials(options.tls, options.listen));

  const auto registry = std::make_shared<prometheus::Registry>();
  DispatchMetrics dispatch_metrics(registry.get());
  RpcMetrics rpc_metrics(registry.get());
  SteadyClock clock;
  Dispatcher dispatcher(options.dispatcher, {.clock = &clock,
                                             .observer = &dispatch_metrics,
                                             .logger = &logger,
                                             .new_name = RandomHex128,
                                             .new_seed = RandomUint32});
  TURBOFLEET_ASSIGN_OR_RETURN(const std::unique_ptr<HttpServer> http,
                              HttpServer::Start({.listen = options.http_listen,
                                                 .ready = [&dispatcher] { return !dispatcher.Draining(); },
                                                 .program = "turbofleet-coordinator",
                                                 .threads = 4,
                                                 .collectables = {std::make_shared<StateCollector>(&dispatcher)}},
                                                registry));
  TURBOFLEET_ASSIGN_OR_RETURN(const std::unique_ptr<CoordinatorServer> server,
                              CoordinatorServer::Start(server_options, &dispatcher, &rpc_metrics));
  const Ticker ticker(kTick, [&dispatcher] { dispatcher.Tick(); });

  const std::string grpc_address = BoundAddress(options.listen, server->port());
  const std::string http_address = BoundAddress(options.http_listen, http->port());
  logger.Info("serving", {{"version", TURBOFLEET_VERSION}, {"grpc", grpc_address}, {"http", http_address}});
  if (!options.address_file.empty()) {
    TURBOFLEET_RETURN_IF_ERROR(WriteAddressFile(options.address_file, grpc_address, http_address));
  }
  ends.AwaitFirst();
  Drain(options, ends, logger, dispatcher, *server);
  return absl::OkStatus();
}

}  // namespace
}  // namespace turbofleet

int main(int argc, char** argv) {
  turbofleet::CoordinatorOptions options;
  if (const std::optional<int> code = turbofleet::ParseOptions(argc, argv, &options); code.has_value()) return *code;
  turbofleet::EndRequests ends;
  const turbofleet::SignalWaiter signals([&ends](int count) { ends.Set(count); });
  const std::unique_ptr<turbofleet::Logger> logger = turbofleet::MakeLogger(options.log);
  const absl::Status status = turbofleet::Run(options, ends, *logger);
  if (!status.ok()) {
    logger->Error("cannot run", {{"error", status.ToString()}});
    return turbofleet::kExitFailed;
  }
  logger->Info("ended");
  return turbofleet::kExitOk;
}
