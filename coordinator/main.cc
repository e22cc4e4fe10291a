// turbofleet-coordinator: wires the layers together and sees them through their life.
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
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
#include "coordinator/dispatch/io_pool.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/dispatch/result_reader.h"
#include "coordinator/dispatch/store_queue.h"
#include "coordinator/dispatch/ticker.h"
#include "coordinator/metrics/coordinator_metrics.h"
#include "coordinator/options.h"
#include "coordinator/service/coordinator_server.h"
#include "coordinator/spool/file_spool.h"
#include "coordinator/store/data_dir.h"
#include "coordinator/store/postgres_job_store.h"
#include "coordinator/store/sqlite_job_store.h"
#include "prometheus/registry.h"

namespace turbofleet {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
// Time for streams to carry their last messages, once everything is over.
constexpr absl::Duration kCloseGrace = absl::Seconds(5);
constexpr absl::Duration kHurriedGrace = absl::Milliseconds(200);
constexpr int kReaderThreads = 2;  // They wait for disks.
constexpr int32_t kRecoveredPage = 1'000;

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
  // The store does not know this coordinator any more: it ends at once.
  void SetFenced() {
    absl::MutexLock lock(&mu_);
    fenced_ = true;
    count_ = 2;
  }
  bool fenced() const {
    absl::MutexLock lock(&mu_);
    return fenced_;
  }
  void AwaitFirst() const {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(this, &EndRequests::Any));
  }

 private:
  bool Any() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return count_ > 0; }
  mutable absl::Mutex mu_;
  int count_ ABSL_GUARDED_BY(mu_) = 0;
  bool fenced_ ABSL_GUARDED_BY(mu_) = false;
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

// What durable jobs stand on. All null without a data folder.
struct JobParts {
  std::unique_ptr<DataDir> data_dir;
  std::unique_ptr<JobStore> store;
  std::unique_ptr<Spool> spool;
  std::unique_ptr<StoreQueue> queue;
};

absl::StatusOr<JobParts> OpenJobParts(const CoordinatorOptions& options) {
  JobParts parts;
  if (options.data_dir.empty()) return parts;
  TURBOFLEET_ASSIGN_OR_RETURN(parts.data_dir, DataDir::Open(options.data_dir));
  if (options.database.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(parts.store, SqliteJobStore::Open({.path = options.data_dir + "/jobs.sqlite"}));
  } else {
    TURBOFLEET_ASSIGN_OR_RETURN(parts.store, PostgresJobStore::Open({.conninfo = options.database,
                                                                     .schema = options.database_schema,
                                                                     .coordinator = options.name,
                                                                     .incarnation = RandomHex128()}));
  }
  FileSpool::Options spool = options.spool;
  if (spool.folder.empty()) spool.folder = options.data_dir + "/spool";
  spool.life = RandomHex128().substr(0, 16);
  TURBOFLEET_ASSIGN_OR_RETURN(parts.spool, FileSpool::Open(spool));
  parts.queue = std::make_unique<StoreQueue>(StoreQueue::Options{}, parts.store.get(), parts.spool.get());
  return parts;
}

// Takes up what an earlier life left: jobs that run go on, pictures of jobs that are gone go too.
absl::Status Recover(const JobParts& parts, Logger& logger, Dispatcher& dispatcher) {
  std::vector<JobRecord> running;
  while (true) {
    TURBOFLEET_ASSIGN_OR_RETURN(std::vector<JobRecord> page,
                                parts.store->ListRunning(running.empty() ? "" : running.back().id, kRecoveredPage));
    if (page.empty()) break;
    running.insert(running.end(), std::make_move_iterator(page.begin()), std::make_move_iterator(page.end()));
  }
  TURBOFLEET_ASSIGN_OR_RETURN(const auto usage, parts.store->Usage());
  for (const std::string& job : parts.spool->Jobs()) {
    if (absl::IsNotFound(parts.store->Find(job).status())) parts.spool->RemoveJob(job);
  }
  if (!running.empty()) logger.Info("jobs go on", {{"jobs", static_cast<int64_t>(running.size())}});
  dispatcher.LoadJobs(running, usage);
  return absl::OkStatus();
}

absl::Status Run(const CoordinatorOptions& options, EndRequests& ends, Logger& logger) {
  TURBOFLEET_ASSIGN_OR_RETURN(const JobParts jobs, OpenJobParts(options));
  CoordinatorServer::Options server_options = {
      .listen = options.listen, .credentials = nullptr, .limits = {}, .tenant_metadata = options.tenant_metadata};
  TURBOFLEET_ASSIGN_OR_RETURN(server_options.credentials, MakeServerCredentials(options.tls, options.listen));

  const auto registry = std::make_shared<prometheus::Registry>();
  DispatchMetrics dispatch_metrics(registry.get());
  RpcMetrics rpc_metrics(registry.get());
  SteadyClock clock;
  Dispatcher dispatcher(options.dispatcher, {.clock = &clock,
                                             .observer = &dispatch_metrics,
                                             .logger = &logger,
                                             .new_name = RandomHex128,
                                             .new_seed = RandomUint32,
                                             .store = jobs.queue.get(),
                                             .spool = jobs.spool.get(),
                                             .store_shared = jobs.store != nullptr && jobs.store->shared(),
                                             .on_fenced = [&ends] { ends.SetFenced(); }});
  IoPool readers(kReaderThreads);
  std::optional<ResultReader> reader;
  std::optional<JobDesk> desk;
  if (jobs.queue != nullptr) {
    reader.emplace(jobs.queue.get(), jobs.spool.get(),
                   [&readers](std::function<void()> call) { readers.Run(std::move(call)); });
    desk.emplace(options.desk, &dispatcher, jobs.queue.get(), jobs.spool.get(), &clock, RandomHex128);
    TURBOFLEET_RETURN_IF_ERROR(Recover(jobs, logger, dispatcher));
    jobs.queue->Start();
  }
  // Its answers go to all of the above; the server, which asks it, ends before.
  const absl::Cleanup stop_queue = [&jobs] {
    if (jobs.queue != nullptr) jobs.queue->Stop();
  };
  TURBOFLEET_ASSIGN_OR_RETURN(const std::unique_ptr<HttpServer> http,
                              HttpServer::Start({.listen = options.http_listen,
                                                 .ready = [&dispatcher] { return !dispatcher.Draining(); },
                                                 .program = "turbofleet-coordinator",
                                                 .threads = 4,
                                                 .collectables = {std::make_shared<StateCollector>(&dispatcher)}},
                                                registry));
  TURBOFLEET_ASSIGN_OR_RETURN(
      const std::unique_ptr<CoordinatorServer> server,
      CoordinatorServer::Start(server_options, {.dispatcher = &dispatcher,
                                                .desk = desk.has_value() ? &*desk : nullptr,
                                                .reader = reader.has_value() ? &*reader : nullptr,
                                                .observer = &rpc_metrics}));
  const Ticker ticker(kTick, [&dispatcher] { dispatcher.Tick(); });

  const std::string grpc_address = BoundAddress(options.listen, server->port());
  const std::string http_address = BoundAddress(options.http_listen, http->port());
  logger.Info("serving", {{"version", TURBOFLEET_VERSION}, {"grpc", grpc_address}, {"http", http_address}});
  if (!options.address_file.empty()) {
    TURBOFLEET_RETURN_IF_ERROR(WriteAddressFile(options.address_file, grpc_address, http_address));
  }
  ends.AwaitFirst();
  Drain(options, ends, logger, dispatcher, *server);
  if (ends.fenced()) return absl::AbortedError("another coordinator took over this one's work");
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
