// Promises of the scheduler that show over long plays, from seeds. The seed is the whole reproduction.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/scheduler.h"
#include "gtest/gtest.h"
#include "tests/coordinator/scheduler_fixture.h"
#include "tests/coordinator/scheduler_fleet.h"

namespace turbofleet {
namespace {

constexpr int32_t kPlenty = 1 << 30;
constexpr Scheduler::Options kOptions = {.session_timeout = absl::Hours(1'000), .images_queued_max = int64_t{1} << 40};

JobPlacement Backlog(uint64_t id, const std::string& tenant, JobClass job_class, BatchShape shape, int32_t weight = 1) {
  JobPlacement placement = JobOf(JobId{id}, kPlenty, shape);
  placement.tenant = tenant;
  placement.tenant_weight = weight;
  placement.job_class = job_class;
  return placement;
}

class SchedulerPlayTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  double Uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(random_() % 10'000) / 10'000.0;
  }
  void AddWorkers(Fleet& fleet, int count) {
    for (int i = 0; i < count; ++i) {
      const double slowness = random_() % 3 == 0 ? Uniform(2.0, 10.0) : Uniform(0.9, 1.1);
      fleet.Add(slowness, static_cast<int32_t>(4 + random_() % 29));
    }
  }

  std::mt19937 random_{GetParam()};
};

// S6: what two tenants that always have work are given, divided by their weights, never drifts apart.
TEST_P(SchedulerPlayTest, TwoTenantsWithBacklogStayLevel) {
  Fleet fleet(kOptions);
  const std::array<int32_t, 2> weights = {1, static_cast<int32_t>(1 + random_() % 4)};
  std::array<double, 2> service = {0.0, 0.0};
  double batch_max = 0.0;
  bool counts = false;
  double ahead_min = 0.0, ahead_max = 0.0;
  fleet.on_lease = [&](const Lease& lease, absl::Duration each) {
    if (!counts) return;
    for (const ImageId& image : lease.images) {
      const size_t tenant = static_cast<uint64_t>(image.job) == 1 ? 0 : 1;
      service[tenant] += absl::ToDoubleSeconds(each) / weights[tenant];
    }
    batch_max = std::max(batch_max, absl::ToDoubleSeconds(each) * static_cast<double>(lease.images.size()));
    ahead_min = std::min(ahead_min, service[0] - service[1]);
    ahead_max = std::max(ahead_max, service[0] - service[1]);
  };
  AddWorkers(fleet, 1 + static_cast<int>(random_() % 12));
  const bool same_shape = random_() % 2 == 0;
  (void)fleet.scheduler().Submit(Backlog(1, "a", JobClass::kNormal, Square(128), weights[0]), fleet.now());
  (void)fleet.scheduler().Submit(
      Backlog(2, "b", JobClass::kNormal, same_shape ? Square(128) : Square(192, 2), weights[1]), fleet.now());
  // Until the pace of all is known.
  fleet.Play(At(20));
  counts = true;
  fleet.Play(At(120));
  EXPECT_GT(service[0], 10.0);
  EXPECT_LE(ahead_max - ahead_min, 2 * batch_max);
}

TEST_P(SchedulerPlayTest, ClassesKeepTheirWeightsAndBulkItsFloor) {
  Fleet fleet(kOptions);
  std::array<double, 3> service = {0.0, 0.0, 0.0};
  fleet.on_lease = [&](const Lease& lease, absl::Duration each) {
    for (const ImageId& image : lease.images) {
      service[static_cast<uint64_t>(image.job) - 1] += absl::ToDoubleSeconds(each);
    }
  };
  AddWorkers(fleet, 1 + static_cast<int>(random_() % 12));
  (void)fleet.scheduler().Submit(Backlog(1, "a", JobClass::kInteractive, Square(128)), fleet.now());
  (void)fleet.scheduler().Submit(Backlog(2, "b", JobClass::kNormal, Square(192)), fleet.now());
  (void)fleet.scheduler().Submit(Backlog(3, "c", JobClass::kBulk, Square(128, 3)), fleet.now());
  fleet.Play(At(60));
  service = {0.0, 0.0, 0.0};
  fleet.Play(At(260));
  const double sum = service[0] + service[1] + service[2];
  EXPECT_NEAR(service[0] / sum, 0.95 * 0.8, 0.02);
  EXPECT_NEAR(service[1] / sum, 0.95 * 0.2, 0.02);
  EXPECT_GT(service[2] / sum, 0.05 * 0.97);
  EXPECT_LT(service[2] / sum, 0.05 * 1.2);
}

// The whole fleet is worth the sum of its workers, however unlike they are, and none is left with a tail.
TEST_P(SchedulerPlayTest, AMixedFleetEndsTogether) {
  Fleet fleet(kOptions);
  AddWorkers(fleet, 2 + static_cast<int>(random_() % 30));
  (void)fleet.scheduler().Submit(JobOf(JobId{1}, 20'000, Square(32)), fleet.now());
  fleet.Play();
  // Now that the pace is known.
  const absl::Time start = fleet.now();
  const int32_t images = 100'000;
  (void)fleet.scheduler().Submit(JobOf(JobId{2}, images), start);
  fleet.Play();
  EXPECT_EQ(fleet.scheduler().Load(fleet.now()).jobs, 0);
  double speed = 0.0;
  double batch_max = 0.0;
  for (const auto& [id, worker] : fleet.workers()) {
    speed += 1.0 / worker.slowness;
    batch_max = std::max(batch_max, worker.slowness * worker.batch_images_max);
  }
  const double each = absl::ToDoubleSeconds(Fleet::Cost(Square(64)));
  const double ideal = images * each / speed;
  const double took = absl::ToDoubleSeconds(fleet.now() - start);
  EXPECT_GE(ideal / took, 0.95);
  EXPECT_LE(took - ideal, batch_max * each);
}

// S8: few workers die of a poisonous image, and its neighbours do not mind.
TEST_P(SchedulerPlayTest, FewWorkersDieOfPoison) {
  Scheduler::Options options = kOptions;
  options.attempts_max = 5;
  Fleet fleet(options);
  const auto batch_max = static_cast<int32_t>(1 + random_() % 32);
  for (int i = 0; i < 3; ++i) fleet.Add(1.0, batch_max);
  const int32_t images = 300;
  std::set<int32_t> poison;
  const size_t poisons = 1 + random_() % 3;
  while (poison.size() < poisons) poison.insert(static_cast<int32_t>(random_() % images));
  std::map<int32_t, int> rendered, failed;
  fleet.dies_of = [&](const Lease& lease) {
    return std::any_of(lease.images.begin(), lease.images.end(),
                       [&](const ImageId& image) { return poison.contains(image.index); });
  };
  fleet.on_end = [&](ImageId image, bool is_rendered) { ++(is_rendered ? rendered : failed)[image.index]; };
  (void)fleet.scheduler().Submit(JobOf(JobId{1}, images), fleet.now());
  fleet.Play();
  EXPECT_EQ(rendered.size(), images - poisons);
  for (const auto& [index, times] : failed) {
    EXPECT_TRUE(poison.contains(index)) << index;
    EXPECT_EQ(times, 1);
  }
  EXPECT_EQ(failed.size(), poisons);
  EXPECT_LE(fleet.deaths(), static_cast<double>(poisons) * (3 + std::log2(batch_max)));
}

// Everything that can go wrong at once: each image ends exactly once, and all do when the faults are over.
class SchedulerChaosTest : public SchedulerPlayTest {
 protected:
  struct Holder {
    std::vector<Lease> leases;
    int64_t taken_max = 4;
    uint64_t progress = 0;
    bool hangs = false;
  };

  void End(ImageId image) {
    ++ended_;
    EXPECT_EQ(++ends_[image], 1) << "image " << image.index << " ended twice";
  }
  void Carry(const Effects& effects) {
    for (const FailedImage& failed : effects.failed) End(failed.image);
    for (const SessionId id : effects.lost_sessions) holders_.erase(id);
    for (const JobId id : effects.expired_jobs) Carry(scheduler_.Cancel(id));
  }
  void Deliver(SessionId id, const Lease& lease, int32_t slot, Outcome outcome) {
    const Delivery delivery =
        scheduler_.Deliver(id, lease.id, slot, outcome, absl::Milliseconds(1 + random_() % 50), now_);
    if (delivery.verdict == Delivery::Verdict::kFinished) {
      EXPECT_EQ(delivery.image, lease.images.at(slot));
      End(delivery.image);
    }
    Carry(delivery.effects);
  }
  void StepWorker(SessionId id, bool faults) {
    Holder& holder = holders_.at(id);
    const uint32_t dice = faults ? random_() % 100 : 99;
    if (dice < 2) {
      Carry(scheduler_.EndSession(id, now_));
      holders_.erase(id);
      return;
    }
    if (dice < 5) holder.hangs = true;
    if (!faults || random_() % 20 == 0) holder.hangs = false;
    if (!holder.leases.empty() && !holder.hangs) {
      const Lease lease = holder.leases.front();
      for (size_t slot = 0; slot < lease.images.size(); ++slot) {
        const uint32_t fault = faults ? random_() % 20 : 19;
        const Outcome outcome = fault == 0   ? Outcome::kFailed
                                : fault == 1 ? Outcome::kDeviceFailed
                                : fault == 2 ? Outcome::kRefused
                                             : Outcome::kRendered;
        Deliver(id, lease, static_cast<int32_t>(slot), outcome);
        if (fault == 3) Deliver(id, lease, static_cast<int32_t>(slot), Outcome::kRendered);
      }
      holder.leases.erase(holder.leases.begin());
      ++holder.taken_max;
      ++holder.progress;
    }
    WorkerReport report = {.batches_taken_max = holder.taken_max, .progress = holder.progress};
    for (const Lease& lease : holder.leases) report.leases.push_back(lease.id);
    if (!holder.leases.empty()) {
      report.last_lease_received = holder.leases.back().id;
      if (random_() % 2 == 0) report.started = {holder.leases.front().id};
    }
    Effects effects;
    TURBOFLEET_EXPECT_OK(scheduler_.Report(id, report, now_, &effects));
    Carry(effects);
  }
  void AddWorker() {
    const SessionId id{++last_session_};
    WorkerCapacity capacity = Worker(static_cast<int32_t>(1 + random_() % 8));
    capacity.worker = absl::StrCat("w", random_() % 8);
    capacity.size_max = random_() % 3 == 0 ? 64 : 1024;
    scheduler_.OpenSession(id, capacity, now_);
    holders_[id];
    TURBOFLEET_EXPECT_OK(scheduler_.Report(id, {.batches_taken_max = 4}, now_, &ignored_));
  }
  void Step(bool faults) {
    now_ += absl::Milliseconds(100);
    Carry(scheduler_.Expire(now_));
    if (holders_.size() < 6 && random_() % 4 == 0) AddWorker();
    std::vector<SessionId> ids;
    for (const auto& [id, holder] : holders_) ids.push_back(id);
    for (const SessionId id : ids) {
      if (holders_.contains(id)) StepWorker(id, faults);
    }
    for (const Lease& lease : scheduler_.Assign(now_)) {
      std::set<ImageId> distinct(lease.images.begin(), lease.images.end());
      EXPECT_EQ(distinct.size(), lease.images.size());
      for (const ImageId& image : lease.images) EXPECT_FALSE(ends_.contains(image)) << "leased after its end";
      holders_.at(lease.session).leases.push_back(lease);
      leases_ += 1;
    }
  }

  Scheduler scheduler_{{.session_timeout = absl::Seconds(5),
                        .stuck_timeout = absl::Seconds(2),
                        .first_stuck_timeout = absl::Seconds(2),
                        .attempts_max = 1 + static_cast<int32_t>(GetParam() % 5),
                        .quarantine_timeout = absl::Seconds(3),
                        .hedge_after_min = absl::Milliseconds(300),
                        .hedge_share_max = 0.5}};
  absl::Time now_ = At(0);
  std::map<SessionId, Holder> holders_;
  uint64_t last_session_ = 0;
  std::map<ImageId, int> ends_;
  int64_t ended_ = 0;
  int64_t leases_ = 0;
  Effects ignored_;
};

TEST_P(SchedulerChaosTest, EachImageEndsExactlyOnce) {
  int64_t expected = 0;
  std::map<JobId, int32_t> open_ended;
  for (uint64_t job = 1; job <= 12; ++job) {
    JobPlacement placement =
        JobOf(JobId{job}, static_cast<int32_t>(random_() % 3 * 20), Square(random_() % 2 ? 64 : 128));
    placement.tenant = absl::StrCat("t", random_() % 3);
    placement.job_class = static_cast<JobClass>(random_() % 3);
    ASSERT_FALSE(scheduler_.Submit(placement, now_).has_value());
    expected += placement.image_count;
    if (placement.image_count == 0) open_ended[placement.id] = 0;
  }
  for (int step = 0; step < 300; ++step) {
    for (auto& [job, next] : open_ended) {
      if (scheduler_.Queued(job) + scheduler_.Leased(job) > 10 || next >= 100) continue;
      const std::vector<int32_t> skip = {next + 1};
      scheduler_.AddImages(job, next, 20, skip, now_);
      next += 20;
      expected += 19;
    }
    if (random_() % 10 == 0) scheduler_.SetPaused(JobId{1 + random_() % 12}, random_() % 2 == 0);
    Step(/*faults=*/true);
  }
  for (uint64_t job = 1; job <= 12; ++job) scheduler_.SetPaused(JobId{job}, false);
  for (int step = 0; step < 600; ++step) {
    for (auto& [job, next] : open_ended) {
      for (; next < 100; next += 20) {
        scheduler_.AddImages(job, next, 20, {}, now_);
        expected += 20;
      }
    }
    Step(/*faults=*/false);
  }
  EXPECT_EQ(ended_, expected);
  const SchedulerLoad load = scheduler_.Load(now_);
  EXPECT_EQ(load.images_queued, 0);
  EXPECT_EQ(load.images_leased, 0);
  EXPECT_EQ(load.jobs, static_cast<int64_t>(open_ended.size()));
}

INSTANTIATE_TEST_SUITE_P(Seed, SchedulerPlayTest, ::testing::Range(1u, 25u), ::testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Seed, SchedulerChaosTest, ::testing::Range(1u, 201u), ::testing::PrintToStringParamName());

}  // namespace
}  // namespace turbofleet
