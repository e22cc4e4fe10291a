// Durable jobs on the whole control plane in one thread, from a seed: one to three coordinators on one database and one
// disk, workers and clients, and everything that can go wrong with each.
//
// What must hold whatever happens: every image of every job ends exactly once and is seen exactly once by its watch,
// from whatever position that goes on, in order if so asked; nothing is seen that is not in the store at that moment;
// a coordinator that was superseded commits nothing and notices; no bound is passed; when the faults stop, all jobs
// end, and nothing is left over.
//
// A failing seed is the whole reproduction: TURBOFLEET_SIMULATION_SEED=SEED plays it alone and tells what happens.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/simulation/simulated_clients.h"
#include "tests/simulation/simulated_coordinators.h"
#include "tests/simulation/simulated_workers.h"

namespace turbofleet {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 200;  // Each takes many times as long.
#else
constexpr uint64_t kSeeds = 10'000;
#endif
constexpr uint64_t kParts = 4;  // That can run beside each other.
constexpr int kFaultySteps = 250;
constexpr int kQuietStepsMax = 1'500;
constexpr int kCrashesMax = 6;  // Of one poison image: 3, and log2 of a batch.

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : dice_(seed),
        shared_(dice_.Happens(600)),
        options_(MakeOptions()),
        coordinators_(&dice_, shared_ ? 1 + dice_.UpTo(2) : 1, shared_, options_),
        workers_(&dice_, &coordinators_, kWorkers),
        clients_(&dice_, &coordinators_) {
    calm_ = dice_.Happens(100);
    if (dice_.Happens(150)) poison_ = dice_.UpTo(10);
    if (poison_ >= 0) workers_.SetPoison(poison_);
    if (calm_) return;
    const bool disk = dice_.Happens(300);
    coordinator_faults_ = {.crash = dice_.UpTo(8),
                           .pause = dice_.UpTo(8),
                           .outage = dice_.UpTo(12),
                           .flicker = dice_.UpTo(80),
                           .jump = dice_.UpTo(4),
                           .disk_full = disk ? 20 : 0,
                           .sync_fails = disk ? 50 : 0};
    worker_faults_ = {.kill = dice_.UpTo(8),
                      .silence = dice_.UpTo(5),
                      .hang = dice_.UpTo(5),
                      .drain = dice_.UpTo(8),
                      .deliver_late = dice_.UpTo(60),
                      .deliver_twice = dice_.UpTo(60),
                      .fail = dice_.UpTo(60),
                      .refuse = dice_.UpTo(10)};
    client_faults_ = {.break_stream = dice_.UpTo(40), .cancel = dice_.UpTo(3), .slow = dice_.UpTo(500)};
  }

  void Play() {
    for (int step = 1; step <= kFaultySteps && !::testing::Test::HasFailure(); ++step) {
      if (clients_.size() < 8 && dice_.Happens(60)) AddClient();
      Step(step);
    }
    dice_.Trace(kFaultySteps, "peace");
    coordinator_faults_ = {};
    worker_faults_ = {};
    client_faults_ = {};
    int step = kFaultySteps;
    while (!clients_.Done() && step < kFaultySteps + kQuietStepsMax && !::testing::Test::HasFailure()) Step(++step);
    EXPECT_TRUE(clients_.Done()) << "never end:" << clients_.Undone() << coordinators_.Describe();
    // Until the last releases and takeovers are through.
    for (int left = 60; left > 0 && !::testing::Test::HasFailure(); --left) {
      if (coordinators_.AnyStandsStill()) left = 60;
      Step(++step);
    }
    if (!::testing::Test::HasFailure()) CheckEnd();
  }

  const SimulatedClients& clients() const { return clients_; }
  const SimulatedCoordinators& coordinators() const { return coordinators_; }

 private:
  static constexpr int kWorkers = 4;

  Dispatcher::Options MakeOptions() {
    return {.scheduler = {.session_timeout = absl::Seconds(3),
                          .stuck_timeout = absl::Seconds(5),
                          .first_stuck_timeout = absl::Seconds(5)},
            .durable = {.jobs_open_per_tenant_max = 1 + dice_.UpTo(3),
                        .bytes_retained_per_job_max = dice_.Happens(300) ? 2'000 : int64_t{1} << 30,
                        .bytes_uncommitted_max = dice_.Happens(500) ? 1'000 : int64_t{1} << 20}};
  }

  void AddClient() {
    const bool keeps_little = options_.durable.bytes_retained_per_job_max < 10'000;
    if (dice_.Happens(60)) {
      clients_.Add(1 + dice_.UpTo(1'000), 1 + dice_.UpTo(2), poison_, keeps_little);
    } else {
      clients_.Add(1 + dice_.UpTo(5), 1 + dice_.UpTo(8), poison_, keeps_little);
    }
  }

  void Step(int step) {
    coordinators_.Step(step, coordinator_faults_);
    workers_.Step(worker_faults_);
    clients_.Step(client_faults_);
    CheckBounds();
  }

  void CheckBounds() {
    constexpr int64_t kPictureMax = 50;
    constexpr int64_t kInHands = int64_t{kWorkers} * 4 * 8 * 2;  // Old and new sessions of each.
    for (const auto& one : coordinators_.all()) {
      if (one.node == nullptr) continue;
      const ClusterState state = one.node->dispatcher.State();
      EXPECT_GE(state.bytes_uncommitted, 0);
      EXPECT_LE(state.bytes_uncommitted, options_.durable.bytes_uncommitted_max + kInHands * kPictureMax);
      EXPECT_GE(state.images_waiting + state.load.images_leased, 0);
      EXPECT_GE(state.jobs_running, 0);
      EXPECT_LE(state.load.images_leased, kInHands);
    }
    if (coordinators_.step() % 16 != 0) return;
    const int64_t kept_max = options_.durable.bytes_retained_per_job_max + options_.durable.bytes_uncommitted_max +
                             3 * kInHands * kPictureMax;
    for (const auto& [id, job] : coordinators_.Database().jobs) EXPECT_LE(job->record.bytes_retained, kept_max);
    EXPECT_LE(poison_ >= 0 && calm_ ? workers_.crashes() : 0, kCrashesMax * static_cast<int>(clients_.size()));
  }

  void CheckEnd() {
    const auto database = coordinators_.Database();
    int64_t bytes = 0;
    for (const auto& [id, job] : database.jobs) {
      // Drafts that nobody could drop go with the next one or the next life.
      if (!job->draft_of.empty()) continue;
      EXPECT_NE(job->record.state, JobState::kRunning) << id;
      bytes += job->record.bytes_retained;
      for (const auto& batch : job->batches) CheckKept(*job, *batch);
    }
    for (const auto& one : coordinators_.all()) {
      if (one.node == nullptr || one.zombie) continue;
      const ClusterState state = one.node->dispatcher.State();
      EXPECT_EQ(state.jobs_running, 0);
      EXPECT_EQ(state.images_waiting + state.load.images_leased, 0);
      EXPECT_EQ(state.bytes_uncommitted, 0);
      EXPECT_EQ(state.bytes_retained, bytes);
      EXPECT_EQ(state.load.jobs, 0);
      EXPECT_EQ(state.load.images_leased, 0);
      EXPECT_TRUE(one.node->dispatcher.CheckQuota("t0", 1).ok());
    }
  }

  // Of what is not released every picture can be read.
  void CheckKept(const InMemoryDatabase::Job& job, const InMemoryDatabase::Batch& batch) {
    for (size_t i = 0; i < batch.results.size(); ++i) {
      if (batch.first_sequence + static_cast<int64_t>(i) <= job.record.released_sequence) continue;
      const auto* packed = std::get_if<PackedPicture>(&batch.results[i].outcome);
      if (packed == nullptr) continue;
      const auto pack = coordinators_.disk().packs.find(packed->file.pack);
      ASSERT_TRUE(pack != coordinators_.disk().packs.end()) << packed->file.pack;
      EXPECT_EQ(
          pack->second.bytes.substr(static_cast<size_t>(packed->file.offset), static_cast<size_t>(packed->file.length)),
          SimulatedPicture(job.record.spec->name, batch.results[i].index));
    }
  }

  Dice dice_;
  const bool shared_;
  const Dispatcher::Options options_;
  SimulatedCoordinators coordinators_;
  SimulatedWorkers workers_;
  SimulatedClients clients_;
  bool calm_ = false;
  int32_t poison_ = -1;
  CoordinatorFaults coordinator_faults_;
  WorkerFaults worker_faults_;
  ClientFaults client_faults_;
};

uint64_t SeedOr(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  uint64_t seed = 0;
  return text != nullptr && absl::SimpleAtoi(text, &seed) ? seed : otherwise;
}

class DurableSimulationTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(DurableSimulationTest, EveryImageEndsAndIsSeenExactlyOnceWhateverHappens) {
  const uint64_t only = SeedOr("TURBOFLEET_SIMULATION_SEED", 0);
  const uint64_t seeds = SeedOr("TURBOFLEET_SIMULATION_SEEDS", kSeeds);
  if (only != 0 && GetParam() != only % kParts) return;
  int64_t images = 0, failures = 0, resumed = 0, fenced = 0, crashed = 0;
  for (uint64_t seed = only != 0 ? only : GetParam() + kParts; seed < (only != 0 ? only + 1 : seeds + kParts);
       seed += kParts) {
    SCOPED_TRACE(absl::StrCat("TURBOFLEET_SIMULATION_SEED=", seed));
    Simulation simulation(seed);
    simulation.Play();
    if (HasFailure()) return;
    images += simulation.clients().images_seen();
    failures += simulation.clients().failures_seen();
    resumed += simulation.clients().resumed();
    fenced += simulation.coordinators().fenced();
    crashed += simulation.coordinators().crashed();
  }
  RecordProperty("images", absl::StrCat(images));
  if (only != 0) return;
  // A play in which nothing happens proves nothing.
  const auto played = static_cast<int64_t>(seeds / kParts);
  EXPECT_GT(images, played * 100);
  EXPECT_GT(failures, played);
  EXPECT_GT(resumed, played * 10);
  EXPECT_GT(fenced, played / 10);
  EXPECT_GT(crashed, played / 10);
}

INSTANTIATE_TEST_SUITE_P(Parts, DurableSimulationTest, ::testing::Range<uint64_t>(0, kParts));

}  // namespace
}  // namespace turbofleet
