// The whole control plane in one thread, from a seed: clients, workers and time are played, and workers die, fall
// silent, hang, deliver late or twice, fail images and lie, while clients cancel and read slowly.
//
// What must hold whatever happens: every image of every job that was accepted ends exactly once, unless its client
// left; no limit is passed; and when the faults stop, all jobs end.
//
// A failing seed is the whole reproduction: TURBOFLEET_SIMULATION_SEED=SEED plays it alone.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/log.h"
#include "coordinator/dispatch/dispatcher.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_sinks.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 100;  // Each takes ten times as long.
#else
constexpr uint64_t kSeeds = 1'500;
#endif
constexpr absl::Duration kStep = absl::Milliseconds(100);
constexpr int kFaultySteps = 600;
constexpr int kQuietStepsMax = 5'000;

// How much goes wrong, per step and subject, in thousandths.
struct Faults {
  int kill = 0;          // The worker's session ends at once.
  int silence = 0;       // It stops reporting and delivering for good.
  int hang = 0;          // Its device stands still while it reports.
  int deliver_late = 0;  // A delivery arrives after other things have happened.
  int deliver_twice = 0;
  int fail = 0;         // An image fails, and may be tried again.
  int refuse = 0;       // An image fails for good.
  int drain = 0;        // The worker gives back what it has not started, and leaves.
  int lie = 0;          // It delivers what it does not have.
  int cancel = 0;       // A client leaves.
  int slow_client = 0;  // Share of clients that read a little at a time.
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), logger_(MakeNullLogger()) {
    const auto up_to = [this](int max) { return static_cast<int>(random_() % (max + 1)); };
    faults_ = {.kill = up_to(5),
               .silence = up_to(3),
               .hang = up_to(3),
               .deliver_late = up_to(100),
               .deliver_twice = up_to(100),
               .fail = up_to(100),
               .refuse = up_to(20),
               .drain = up_to(5),
               .lie = up_to(20),
               .cancel = up_to(5),
               .slow_client = up_to(300)};
    options_ = {.scheduler = {.session_timeout = absl::Seconds(3),
                              .stuck_timeout = absl::Seconds(5),
                              .first_stuck_timeout = absl::Seconds(5),
                              .attempts_max = 1 + up_to(4),
                              .batches_held_max = 1 + up_to(4),
                              .images_queued_max = 300,
                              .jobs_max = 12,
                              .prompt_bytes_max = 1'000},
                .images_per_job_max = 100,
                .images_unsent_max = 1 + up_to(20),
                .client_stall_timeout = absl::Hours(1)};
    dispatcher_ = std::make_unique<Dispatcher>(
        options_, Dispatcher::Environment{.clock = &clock_,
                                          .observer = &observer_,
                                          .logger = logger_.get(),
                                          .new_name = [this] { return absl::StrCat("n", ++names_); },
                                          .new_seed = [this] { return static_cast<uint32_t>(random_()); }});
  }

  void Play() {
    for (int step = 0; step < kFaultySteps && !::testing::Test::HasFailure(); ++step) {
      if (workers_.size() < 5 && Happens(100)) AddWorker();
      if (Happens(100)) AddClient();
      Step();
    }
    // Peace: whoever hangs or is silent is left to the timeouts, and one sound worker of each kind stays.
    faults_ = {};
    quiet_ = true;
    for (auto& client : clients_) client.slow = false;
    for (int kind = 0; kind < kKinds; ++kind) AddWorker(kind);
    for (int step = 0; step < kQuietStepsMax && !clients_.empty() && !::testing::Test::HasFailure(); ++step) Step();
    EXPECT_TRUE(clients_.empty()) << clients_.size() << " jobs never end";
    const ClusterState state = dispatcher_->State();
    EXPECT_EQ(state.calls_open, 0);
    EXPECT_EQ(state.load.jobs, 0);
    EXPECT_EQ(state.load.images_queued, 0);
    EXPECT_EQ(state.load.images_leased, 0);
    EXPECT_EQ(state.load.prompt_bytes, 0);
    EXPECT_EQ(state.images_completed, completed_);
    EXPECT_EQ(state.images_failed, failed_);
  }

  int64_t completed() const { return completed_; }
  int64_t failed() const { return failed_; }
  int64_t late() const { return observer_.late; }
  int64_t retried() const { return observer_.retried; }

 private:
  static constexpr int kKinds = 3;

  struct Observer : DispatchObserver {
    void OnLateDelivery() override { ++late; }
    void OnRetry(RetryReason, int64_t images) override { retried += images; }
    int64_t late = 0, retried = 0;
  };

  struct PendingDelivery {
    std::string token;
    LeaseId lease{};
    int32_t slot = 0;
    RenderOutcome outcome;
    int steps_left = 0;
  };

  struct WorkerLease {
    LeaseId id{};
    std::set<int32_t> slots;  // Not delivered.
  };

  struct Worker {
    std::string name;
    SessionId id{};
    std::shared_ptr<FakeSession> sink;
    size_t batches_seen = 0;
    size_t abandoned_seen = 0;
    int64_t taken_max = 2;
    std::deque<WorkerLease> leases;
    LeaseId last_lease{};
    uint64_t progress = 0;
    bool silent = false;
    bool hangs = false;
    bool draining = false;
  };

  struct Client {
    std::shared_ptr<FakeWatch> watch;
    std::vector<int> ends;  // By image.
    size_t images_seen = 0;
    size_t failures_seen = 0;
    size_t sent = 0;
    bool slow = false;
  };

  bool Happens(int thousandths) { return static_cast<int>(random_() % 1'000) < thousandths; }

  // Kinds differ in what they can do.
  void AddWorker(int kind = -1) {
    if (kind < 0) kind = static_cast<int>(random_() % kKinds);
    Worker worker;
    // In peace nobody takes a name over; before, a restart under the same name is part of the play.
    worker.name = quiet_ ? absl::StrCat("sound", kind) : absl::StrCat("w", random_() % 6);
    worker.sink = std::make_shared<FakeSession>();
    const WorkerIdentity identity = {.name = worker.name,
                                     .version = "1",
                                     .model_name = kind == 2 ? "b" : "a",
                                     .model_digest = kind == 2 ? "sha256:b" : "sha256:a",
                                     .device = "cpu",
                                     .device_name = "cpu",
                                     .precision = "float32",
                                     .default_width = 64,
                                     .default_height = 64,
                                     .size_max = kind == 1 ? 128 : 64,
                                     .batch_images_max = 1 + static_cast<int32_t>(random_() % 8),
                                     .has_tiny_vae = kind == 1};
    const absl::StatusOr<SessionId> id = dispatcher_->OpenSession(identity, worker.sink);
    ASSERT_TRUE(id.ok());
    worker.id = *id;
    workers_.push_back(std::move(worker));
  }

  void AddClient() {
    JobRequest request;
    request.prompts.assign(1 + random_() % 3, "prompt");
    request.seeds_per_prompt = 1 + static_cast<int32_t>(random_() % 30);
    request.model = random_() % 3 == 0 ? "b" : "a";
    if (request.model == "a" && Happens(300)) request.width = 128;
    request.tiny_vae = request.model == "a" && Happens(200);
    request.steps = 1 + static_cast<int32_t>(random_() % 2);
    Client client;
    client.watch = std::make_shared<FakeWatch>();
    client.slow = Happens(faults_.slow_client);
    if (!dispatcher_->StartJob(std::move(request), client.watch).ok()) return;
    client.ends.resize(client.watch->spec->ImageCount());
    clients_.push_back(std::move(client));
  }

  void Step() {
    clock_.Advance(kStep);
    dispatcher_->Tick();
    for (Worker& worker : workers_) StepWorker(worker);
    std::erase_if(workers_, [](const Worker& worker) { return worker.sink->closed.has_value(); });
    StepDeliveries();
    for (Client& client : clients_) StepClient(client);
    std::erase_if(clients_, [](const Client& client) { return client.watch == nullptr; });
    CheckLimits();
  }

  void StepWorker(Worker& worker) {
    if (worker.sink->closed.has_value()) return;
    if (Happens(faults_.kill)) {
      dispatcher_->EndSession(worker.id, absl::CancelledError("killed"));
      return;
    }
    worker.silent = worker.silent || Happens(faults_.silence);
    worker.hangs = worker.hangs || Happens(faults_.hang);
    if (worker.silent) return;
    Receive(worker);
    if (!worker.draining && Happens(faults_.drain)) {
      worker.draining = true;
      while (worker.leases.size() > 1) worker.leases.pop_back();
    }
    if (!worker.hangs) Render(worker);
    if (Happens(faults_.lie)) {
      Deliver(worker, LeaseId{random_() % 50}, static_cast<int32_t>(random_() % 10) - 1);
    }
    Report(worker);
  }

  void Receive(Worker& worker) {
    for (; worker.batches_seen < worker.sink->batches.size(); ++worker.batches_seen) {
      const BatchToRender& batch = worker.sink->batches[worker.batches_seen];
      WorkerLease lease = {.id = batch.lease, .slots = {}};
      for (size_t slot = 0; slot < batch.images.size(); ++slot) lease.slots.insert(static_cast<int32_t>(slot));
      ASSERT_GT(batch.lease, worker.last_lease);
      worker.last_lease = batch.lease;
      worker.leases.push_back(std::move(lease));
    }
    ASSERT_LE(static_cast<int64_t>(worker.batches_seen), worker.taken_max) << "more than the worker granted";
    ASSERT_FALSE(worker.draining && worker.leases.size() > 1 && quiet_);
    for (; worker.abandoned_seen < worker.sink->abandoned.size(); ++worker.abandoned_seen) {
      const auto& [id, slots] = worker.sink->abandoned[worker.abandoned_seen];
      for (WorkerLease& lease : worker.leases) {
        if (lease.id != id) continue;
        for (const int32_t slot : slots) lease.slots.erase(slot);
        if (slots.empty()) lease.slots.clear();
      }
    }
  }

  // One image a step leaves the device; an empty batch leaves it at once.
  void Render(Worker& worker) {
    if (worker.leases.empty()) return;
    WorkerLease& lease = worker.leases.front();
    if (!lease.slots.empty()) {
      const int32_t slot = *lease.slots.begin();
      lease.slots.erase(lease.slots.begin());
      ++worker.progress;
      Deliver(worker, lease.id, slot);
    }
    if (lease.slots.empty()) {
      worker.leases.pop_front();
      ++worker.taken_max;
    }
  }

  void Deliver(const Worker& worker, LeaseId lease, int32_t slot) {
    RenderOutcome outcome =
        Picture{.content = "x", .pixel_sha256 = "", .batch_size = 1, .prompt_tokens_cut = 0, .stages = {}};
    if (Happens(faults_.fail)) outcome = RenderError{absl::StatusCode::kInternal, "IMAGE_NOT_FINITE", ""};
    if (Happens(faults_.refuse)) outcome = RenderError{absl::StatusCode::kInvalidArgument, "INIT_IMAGE_INVALID", ""};
    const std::string& token = worker.sink->welcome->token;
    if (Happens(faults_.deliver_late)) {
      late_.push_back({token, lease, slot, outcome, static_cast<int>(random_() % 60)});
      return;
    }
    dispatcher_->Deliver(token, lease, slot, outcome);
    if (Happens(faults_.deliver_twice)) dispatcher_->Deliver(token, lease, slot, outcome);
  }

  void StepDeliveries() {
    std::deque<PendingDelivery> waiting;
    for (PendingDelivery& delivery : late_) {
      if (delivery.steps_left-- > 0) {
        waiting.push_back(std::move(delivery));
      } else {
        dispatcher_->Deliver(delivery.token, delivery.lease, delivery.slot, std::move(delivery.outcome));
      }
    }
    late_ = std::move(waiting);
  }

  void Report(const Worker& worker) {
    WorkerReport report = {.batches_taken_max = worker.taken_max,
                           .leases = {},
                           .last_lease_received = worker.last_lease,
                           .draining = worker.draining,
                           .progress = worker.progress};
    for (const WorkerLease& lease : worker.leases) report.leases.push_back(lease.id);
    const absl::Status status = dispatcher_->Report(worker.id, report);
    // Only a session that has ended meanwhile is refused.
    EXPECT_TRUE(status.ok() || worker.sink->closed.has_value()) << status;
    if (worker.draining && worker.leases.empty() && late_.empty()) {
      dispatcher_->EndSession(worker.id, absl::OkStatus());
    }
  }

  void StepClient(Client& client) {
    FakeWatch& watch = *client.watch;
    for (; client.images_seen < watch.images.size(); ++client.images_seen) {
      ++client.ends.at(watch.images[client.images_seen].index);
      ++completed_;
    }
    for (; client.failures_seen < watch.failures.size(); ++client.failures_seen) {
      ++client.ends.at(watch.failures[client.failures_seen].index);
      EXPECT_LE(watch.failures[client.failures_seen].attempts, options_.scheduler.attempts_max);
      ++failed_;
    }
    for (const int ends : client.ends) EXPECT_LE(ends, 1) << "an image ended twice";
    const size_t ended = client.images_seen + client.failures_seen;
    const size_t take = client.slow ? (Happens(300) ? 1 : 0) : ended;
    for (size_t i = 0; i < take && client.sent < ended; ++i, ++client.sent) dispatcher_->ImageSent(*watch.id, 1);
    const bool whole = watch.ended.has_value() && client.sent == ended;
    EXPECT_TRUE(!whole || ended == client.ends.size()) << "the job ended before its images";
    if (whole || Happens(faults_.cancel)) {
      dispatcher_->CloseJob(*watch.id);
      client.watch = nullptr;
    }
  }

  void CheckLimits() {
    const ClusterState state = dispatcher_->State();
    ASSERT_LE(state.calls_open, options_.scheduler.jobs_max);
    int64_t held_max = 0;
    for (const Worker& worker : workers_) {
      held_max += options_.scheduler.batches_held_max * 8;
      ASSERT_LE(static_cast<int64_t>(worker.sink->batches.size()), worker.taken_max);
    }
    ASSERT_LE(state.load.images_leased, held_max);
    // What comes back from workers may stand above the limit that admission keeps.
    ASSERT_LE(state.load.images_queued, options_.scheduler.images_queued_max + 8 * 8 * 5);
    ASSERT_GE(state.load.images_queued, 0);
    ASSERT_LE(state.load.prompt_bytes, options_.scheduler.prompt_bytes_max);
    for (const Client& client : clients_) {
      if (client.watch == nullptr) continue;
      const size_t unsent = client.watch->images.size() + client.watch->failures.size() - client.sent;
      ASSERT_LE(static_cast<int64_t>(unsent), options_.images_unsent_max + held_max + 8 * 8 * 5);
    }
  }

  std::mt19937_64 random_;
  Faults faults_;
  Dispatcher::Options options_;
  SimulatedClock clock_;
  Observer observer_;
  std::unique_ptr<Logger> logger_;
  int names_ = 0;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::vector<Worker> workers_;
  std::vector<Client> clients_;
  std::deque<PendingDelivery> late_;
  bool quiet_ = false;
  int64_t completed_ = 0;
  int64_t failed_ = 0;
};

TEST(ClusterSimulationTest, EveryImageEndsExactlyOnceWhateverHappens) {
  const char* const only = std::getenv("TURBOFLEET_SIMULATION_SEED");
  const uint64_t first = only != nullptr ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t last = only != nullptr ? first : kSeeds;
  int64_t completed = 0, failed = 0, late = 0, retried = 0;
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(absl::StrCat("TURBOFLEET_SIMULATION_SEED=", seed));
    Simulation simulation(seed);
    simulation.Play();
    if (HasFailure()) return;
    completed += simulation.completed();
    failed += simulation.failed();
    late += simulation.late();
    retried += simulation.retried();
  }
  // A play in which nothing happens proves nothing.
  EXPECT_GT(completed, static_cast<int64_t>(last - first + 1) * 20);
  if (only == nullptr) {
    EXPECT_GT(failed, 1'000);
    EXPECT_GT(late, 1'000);
    EXPECT_GT(retried, 1'000);
  }
}

}  // namespace
}  // namespace turbofleet
