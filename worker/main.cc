// turbofleet-worker: loads the engines, lets an agent serve each, and sees them through their life.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/credentials.h"
#include "common/flags.h"
#include "common/grpc_server.h"
#include "common/http_server.h"
#include "common/random.h"
#include "common/signals.h"
#include "common/status.h"
#include "common/version.h"
#include "grpcpp/create_channel.h"
#include "prometheus/registry.h"
#include "worker/agent/agent.h"
#include "worker/agent/input_fetcher.h"
#include "worker/engines.h"
#include "worker/metrics/worker_metrics.h"
#include "worker/options.h"

namespace turbofleet {
namespace {

// Beside the codes that all programs share: a device failed, so that starting again here may not help.
constexpr int kExitDeviceFailed = 10;
constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kInputTimeout = absl::Seconds(30);
constexpr int kEncoderThreadsMax = 8;
constexpr size_t kHostNameBytesMax = 63;

// What the program waits for: a signal, and the ends of its agents. Thread-safe.
class Events {
 public:
  void DrainRequested() {
    absl::MutexLock lock(&mu_);
    draining_ = true;
  }

  void AgentEnded(AgentEnd end) {
    absl::MutexLock lock(&mu_);
    ++ended_;
    if (end == AgentEnd::kDeviceFailed) exit_code_ = kExitDeviceFailed;
    if (end == AgentEnd::kSuperseded) {
      // Whoever has taken one of the names wants them all.
      draining_ = true;
      if (exit_code_ == kExitOk) exit_code_ = kExitFailed;
    }
  }

  bool draining() const {
    absl::MutexLock lock(&mu_);
    return draining_;
  }

  int exit_code() const {
    absl::MutexLock lock(&mu_);
    return exit_code_;
  }

  // Waits until something is to be done, or for `patience`.
  void AwaitDrainOrEnds(size_t agents, absl::Duration patience) const {
    absl::MutexLock lock(&mu_);
    const auto happened = [this, agents] {
      mu_.AssertHeld();
      return draining_ || ended_ >= agents;
    };
    mu_.AwaitWithTimeout(absl::Condition(&happened), patience);
  }

  // Whether all have ended, after waiting for that until `deadline`.
  bool AwaitEnds(size_t agents, absl::Time deadline) const {
    absl::MutexLock lock(&mu_);
    const auto ended = [this, agents] {
      mu_.AssertHeld();
      return ended_ >= agents;
    };
    return mu_.AwaitWithDeadline(absl::Condition(&ended), deadline);
  }

 private:
  mutable absl::Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  size_t ended_ ABSL_GUARDED_BY(mu_) = 0;
  int exit_code_ ABSL_GUARDED_BY(mu_) = kExitOk;
};

// The machine's name in the characters of a worker's, and a number that two workers of one machine do not share.
std::string DefaultName() {
  std::array<char, 256> host = {};
  if (gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') host = {'w', 'o', 'r', 'k', 'e', 'r'};
  std::string name = std::string(host.data()).substr(0, kHostNameBytesMax);
  for (char& c : name) {
    if (!IsWorkerName(std::string(1, c))) c = '-';
  }
  return absl::StrCat(name, "-", absl::Hex(RandomUint32(), absl::kZeroPad8));
}

int EncoderThreads(const WorkerOptions& options) {
  if (options.encoder_threads > 0) return options.encoder_threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, kEncoderThreadsMax);
}

// From 0 up to, not including, 1.
std::function<double()> MakeRandom() {
  return [generator = std::mt19937_64((uint64_t{RandomUint32()} << 32) | RandomUint32())]() mutable {
    return static_cast<double>(generator() >> 11) * 0x1.0p-53;
  };
}

// Whole or not at all: whoever waits for the file may read it as soon as it is there.
absl::Status WriteAddressFile(const std::string& path, const std::string& http) {
  const std::string part = path + ".part";
  {
    std::ofstream file(part, std::ios::trunc);
    file << "http=" << http << "\n";
    file.close();
    if (!file) return absl::UnavailableError("--address-file: cannot write " + part);
  }
  if (std::rename(part.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError("--address-file: cannot write " + path);
  }
  return absl::OkStatus();
}

// Channels to the coordinator. gRPC lets equal channels share a connection, so each of these is different.
class Dialer {
 public:
  Dialer(std::string target, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : target_(std::move(target)), credentials_(std::move(credentials)) {}

  std::shared_ptr<grpc::Channel> NewConnection() {
    grpc::ChannelArguments arguments = MakeChannelArguments();
    arguments.SetInt("turbofleet.connection", ++connections_);
    return grpc::CreateCustomChannel(target_, credentials_, arguments);
  }

 private:
  const std::string target_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  int connections_ = 0;
};

// The agents, and what they stand on, in the order in which they stand on it.
class Worker {
 public:
  Worker(const WorkerOptions& options, Logger* logger, Events* events)
      : options_(options), logger_(logger), events_(events), registry_(std::make_shared<prometheus::Registry>()) {}

  // Loads the engines, starts the agents. Returns when all agents have started.
  absl::Status Start() {
    TURBOFLEET_ASSIGN_OR_RETURN(std::shared_ptr<grpc::ChannelCredentials> credentials,
                                MakeChannelCredentials(options_.tls, options_.coordinator));
    TURBOFLEET_ASSIGN_OR_RETURN(http_, HttpServer::Start({.listen = options_.http_listen,
                                                          .ready = [this] { return ready_.load(); },
                                                          .program = "turbofleet-worker"},
                                                         registry_));
    HostPort address = *ParseHostPort("the address", options_.http_listen);
    address.port = http_->port();
    http_address_ = FormatHostPort(address);
    const std::string name = options_.name.empty() ? DefaultName() : options_.name;
    logger_->Info("starting", {{"version", TURBOFLEET_VERSION},
                               {"worker", name},
                               {"coordinator", options_.coordinator},
                               {"http", http_address_}});
    std::vector<std::unique_ptr<Engine>> engines;
    for (const DeviceOptions& device : options_.devices) {
      TURBOFLEET_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, MakeEngine(options_, device));
      engines.push_back(std::move(engine));
    }
    Dialer dialer(options_.coordinator, std::move(credentials));
    StartShared(&dialer);
    const std::vector<std::string> names = WorkerNames(name, options_.devices);
    const std::string incarnation = RandomHex128();
    for (size_t i = 0; i < engines.size(); ++i) StartAgent(names[i], i, incarnation, std::move(engines[i]), &dialer);
    return absl::OkStatus();
  }

  size_t agents() const { return agents_.size(); }

  void Drain() {
    for (const auto& agent : agents_) agent->Drain();
  }

  // Looks at the agents for /readyz.
  bool UpdateReady() {
    bool all = true;
    for (const auto& agent : agents_) all = all && agent->ready();
    ready_ = all;
    return all;
  }

  bool DeviceBusy() const {
    for (const auto& agent : agents_) {
      if (agent->device_busy()) return true;
    }
    return false;
  }

  const std::string& http_address() const { return http_address_; }

 private:
  void StartShared(Dialer* dialer) {
    timer_ = MakeThreadTimer();
    encoders_ = std::make_unique<EncoderPool>(EncoderPool::Options{.threads = EncoderThreads(options_)});
    fetcher_ = std::make_unique<InputFetcher>(dialer->NewConnection(), kInputTimeout);
    inputs_ = std::make_shared<InputCache>(
        InputCache::Options{},
        [fetcher = fetcher_.get()](const std::string& sha256, std::function<void(absl::StatusOr<std::string>)> done) {
          fetcher->Fetch(sha256, std::move(done));
        },
        encoders_.get());
  }

  void StartAgent(const std::string& name, size_t index, const std::string& incarnation, std::unique_ptr<Engine> engine,
                  Dialer* dialer) {
    const DeviceOptions& device = options_.devices[index];
    Agent::Options options;
    options.worker = name;
    options.version = TURBOFLEET_VERSION;
    options.incarnation = incarnation;
    options.device = device.device;
    // Room for four batches behind the device: enough to hide a slow moment of the network, little in memory.
    options.ledger.backlog_images_max = 4 * engine->Info().batch_images_max;
    metrics_.push_back(std::make_unique<WorkerMetrics>(registry_.get(), device.device));
    agents_.push_back(std::make_unique<Agent>(options,
                                              Agent::Parts{.engine = std::move(engine),
                                                           .control = dialer->NewConnection(),
                                                           .delivery = dialer->NewConnection(),
                                                           .inputs = inputs_,
                                                           .encoders = encoders_.get(),
                                                           .timer = timer_.get(),
                                                           .clock = &clock_,
                                                           .logger = logger_,
                                                           .observer = metrics_.back().get(),
                                                           .random = MakeRandom()},
                                              [this, name](AgentEnd end, const absl::Status& status) {
                                                LogEnd(name, end, status);
                                                events_->AgentEnded(end);
                                              }));
  }

  void LogEnd(const std::string& name, AgentEnd end, const absl::Status& status) {
    switch (end) {
      case AgentEnd::kDrained:
        logger_->Info("drained", {{"worker", name}});
        return;
      case AgentEnd::kSuperseded:
        logger_->Error("superseded: another worker of this name has connected; give each worker its own --name",
                       {{"worker", name}, {"message", std::string(status.message())}});
        return;
      case AgentEnd::kDeviceFailed:
        logger_->Error("stopped: the device failed", {{"worker", name}, {"message", std::string(status.message())}});
        return;
    }
  }

  const WorkerOptions& options_;
  Logger* const logger_;
  Events* const events_;
  const std::shared_ptr<prometheus::Registry> registry_;
  std::atomic<bool> ready_ = false;
  std::string http_address_;
  std::unique_ptr<HttpServer> http_;
  const SteadyClock clock_;
  std::vector<std::unique_ptr<WorkerMetrics>> metrics_;
  std::unique_ptr<Timer> timer_;
  std::unique_ptr<EncoderPool> encoders_;
  std::unique_ptr<InputFetcher> fetcher_;
  std::shared_ptr<InputCache> inputs_;
  std::vector<std::unique_ptr<Agent>> agents_;
};

// Waits for the signal, or for the agents to end by themselves; keeps /readyz up to date meanwhile.
absl::Status Serve(const WorkerOptions& options, const Events& events, Logger& logger, Worker& worker) {
  bool told = false;
  while (!events.draining() && !events.AwaitEnds(worker.agents(), absl::InfinitePast())) {
    if (worker.UpdateReady() && !told) {
      told = true;
      logger.Info("ready", {{"http", worker.http_address()}});
      if (!options.address_file.empty()) {
        TURBOFLEET_RETURN_IF_ERROR(WriteAddressFile(options.address_file, worker.http_address()));
      }
    }
    events.AwaitDrainOrEnds(worker.agents(), kTick);
  }
  return absl::OkStatus();
}

// Ends the process without waiting for threads that may never return.
[[noreturn]] void Leave(int code) {
  std::fflush(nullptr);
  std::_Exit(code);
}

int Run(const WorkerOptions& options, Events& events, Logger& logger) {
  Worker worker(options, &logger, &events);
  absl::Status status = worker.Start();
  if (status.ok()) status = Serve(options, events, logger, worker);
  if (!status.ok()) {
    logger.Error("cannot run", {{"error", status.ToString()}});
    if (worker.DeviceBusy()) Leave(kExitFailed);
    return kExitFailed;
  }
  worker.Drain();
  worker.UpdateReady();
  if (!events.AwaitEnds(worker.agents(), absl::Now() + options.drain_timeout)) {
    logger.Error("not drained in time: what is left goes to other workers",
                 {{"timeout", absl::FormatDuration(options.drain_timeout)}});
    Leave(kExitFailed);
  }
  // An engine that still warms, or hangs, cannot be told to stop.
  if (worker.DeviceBusy()) Leave(events.exit_code());
  return events.exit_code();
}

}  // namespace
}  // namespace turbofleet

int main(int argc, char** argv) {
  turbofleet::PrepareProcess();
  turbofleet::WorkerOptions options;
  if (const std::optional<int> code = turbofleet::ParseOptions(argc, argv, &options); code.has_value()) return *code;
  turbofleet::Events events;
  const turbofleet::SignalWaiter signals([&events](int count) {
    if (count > 1) turbofleet::Leave(turbofleet::kExitInterrupted);
    events.DrainRequested();
  });
  const std::unique_ptr<turbofleet::Logger> logger = turbofleet::MakeLogger(options.log);
  return turbofleet::Run(options, events, *logger);
}
