// What the scheduler does about workers that fail, are late, or differ in speed.
#include <map>
#include <set>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler/scheduler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/scheduler_fixture.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;
using ::testing::VariantWith;
using Verdict = Delivery::Verdict;

constexpr absl::Duration kUnknown = absl::ZeroDuration();

class SchedulerFaultsTest : public SchedulerFixture {
 protected:
  // Renders the whole lease; the report says that the worker can take one batch more.
  void Finish(Scheduler& scheduler, const Lease& lease, absl::Duration each, absl::Time now) {
    for (size_t slot = 0; slot < lease.images.size(); ++slot) {
      EXPECT_EQ(
          scheduler.Deliver(lease.session, lease.id, static_cast<int32_t>(slot), Outcome::kRendered, each, now).verdict,
          Verdict::kFinished);
    }
  }
  // Lets a worker show its pace with an image of a job of its own.
  void ShowPace(Scheduler& scheduler, SessionId session, JobId job, absl::Duration pace, absl::Time now) {
    (void)scheduler.Submit(JobOf(job, 1), now);
    const std::vector<Lease> leases = scheduler.Assign(now);
    ASSERT_THAT(leases, ElementsAre(Field(&Lease::session, session)));
    Finish(scheduler, leases[0], pace, now);
  }
  void Grant(Scheduler& scheduler, SessionId session, int64_t credit, std::vector<LeaseId> leases, absl::Time now,
             std::vector<LeaseId> started = {}) {
    const LeaseId last = leases.empty() ? LeaseId{0} : leases.back();
    TURBOFLEET_ASSERT_OK(scheduler.Report(
        session,
        {.batches_taken_max = credit, .leases = leases, .started = started, .last_lease_received = last, .progress = 0},
        now, &effects_));
  }
};

// ---- Crashes

TEST_F(SchedulerFaultsTest, OnlyImagesThatWereOnTheDeviceAreChargedWithTheCrash) {
  Scheduler scheduler({.attempts_max = 1});
  (void)scheduler.Submit(JobOf(kJob, 6), At(0));
  Join(scheduler, kAnna, 3, Worker(2));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(3));
  const std::vector<LeaseId> ids = {leases[0].id, leases[1].id, leases[2].id};
  // The first is rendered and not delivered yet; all the worker says is what was on the device.
  Grant(scheduler, kAnna, 3, ids, At(1), {leases[1].id});
  const Effects effects = scheduler.EndSession(kAnna, At(1));
  EXPECT_THAT(effects.failed,
              ElementsAre(Field(&FailedImage::image, ImageId{kJob, 2}), Field(&FailedImage::image, ImageId{kJob, 3})));
  ExpectLoad(scheduler, 1, 4, 0);
}

TEST_F(SchedulerFaultsTest, StartedLeasesHaveToBeHeld) {
  Scheduler scheduler({});
  Join(scheduler, kAnna, 1);
  EXPECT_THAT(scheduler.Report(kAnna, {.started = {LeaseId{1}}}, At(0), &effects_),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(SchedulerFaultsTest, ImagesThatCrashedTravelInHalvesAmongThemselves) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 10), At(0));
  Join(scheduler, kAnna, 1, Worker(8));
  EXPECT_EQ(scheduler.Assign(At(0)).at(0).images, Images(kJob, 0, 7));
  scheduler.EndSession(kAnna, At(1));
  Join(scheduler, kBert, 4, Worker(8));
  const std::vector<Lease> leases = scheduler.Assign(At(1));
  ASSERT_THAT(leases, SizeIs(3));
  EXPECT_EQ(leases[0].images, Images(kJob, 0, 3));
  EXPECT_EQ(leases[1].images, Images(kJob, 4, 7));
  EXPECT_EQ(leases[2].images, Images(kJob, 8, 9));
  scheduler.EndSession(kBert, At(2));  // The first half was on the device.
  Join(scheduler, kCleo, 9, Worker(8));
  std::vector<size_t> sizes;
  for (const Lease& lease : scheduler.Assign(At(2))) sizes.push_back(lease.images.size());
  EXPECT_THAT(sizes, ElementsAre(1, 1, 1, 1));  // Four at a time may be held.
}

TEST_F(SchedulerFaultsTest, ImagesThatOnlyWaitedDoNotTravelWithThoseThatCrashed) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 6), At(0));
  Join(scheduler, kAnna, 2, Worker(3));
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(2));
  scheduler.EndSession(kAnna, At(1));
  Join(scheduler, kBert, 4, Worker(8));
  const std::vector<Lease> leases = scheduler.Assign(At(1));
  ASSERT_THAT(leases, SizeIs(3));
  EXPECT_EQ(leases[0].images, Images(kJob, 0, 1));
  EXPECT_EQ(leases[1].images, Images(kJob, 2, 2));
  EXPECT_EQ(leases[2].images, Images(kJob, 3, 5));
}

TEST_F(SchedulerFaultsTest, ACrashSendsAnImageToAnotherWorkerEvenAfterARestart) {
  Scheduler scheduler({});
  WorkerCapacity anna = Worker();
  anna.worker = "anna";
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 1, anna);
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(1));
  scheduler.EndSession(kAnna, At(1));
  Join(scheduler, kCleo, 1, anna);  // The same worker again.
  Join(scheduler, kBert, 0);
  EXPECT_THAT(scheduler.Assign(At(1)), IsEmpty());
  Grant(scheduler, kBert, 1, {}, At(1));
  EXPECT_THAT(scheduler.Assign(At(1)), ElementsAre(Field(&Lease::session, kBert)));
}

// A worker that was only cut off proves it by what it brings back.
TEST_F(SchedulerFaultsTest, AdoptedImagesDidNotCrashTheirWorker) {
  Scheduler scheduler({.crashes_max = 2});
  WorkerCapacity anna = Worker();
  anna.worker = "anna";
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1, anna);
  const std::vector<ImageId> held = scheduler.Assign(At(0)).at(0).images;
  SessionId session = kAnna;
  for (uint64_t round = 10; round < 15; ++round) {
    EXPECT_THAT(scheduler.EndSession(session, At(1)).failed, IsEmpty());
    session = SessionId{round};
    Join(scheduler, session, 0, anna);
    const Adoption adoption = scheduler.Adopt(session, held, At(1));
    ASSERT_EQ(adoption.images, held);
    if (round < 14) continue;
    EXPECT_EQ(scheduler.Deliver(session, adoption.lease, 0, Outcome::kRendered, kUnknown, At(2)).attempt, 1);
  }
}

// ---- Devices that fail

TEST_F(SchedulerFaultsTest, ADeviceThatFailsIsPutInQuarantineAndItsImagesAreNotCharged) {
  Scheduler scheduler({.session_timeout = absl::Hours(1),
                       .attempts_max = 1,
                       .device_failures_max = 2,
                       .quarantine_timeout = absl::Seconds(30)});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 100, Worker(2));
  for (int batch = 1; batch <= 2; ++batch) {
    const Lease lease = scheduler.Assign(At(0)).at(0);
    for (const int slot : {0, 1}) {
      const Delivery delivery = scheduler.Deliver(kAnna, lease.id, slot, Outcome::kDeviceFailed, kUnknown, At(0));
      EXPECT_EQ(delivery.verdict, Verdict::kRetried);
      const size_t expected = batch == 2 && slot == 0 ? 1 : 0;  // A batch that fails is one failure.
      EXPECT_THAT(delivery.effects.quarantined_sessions, SizeIs(expected));
    }
  }
  EXPECT_TRUE(scheduler.LoadOf(kAnna)->quarantined);
  EXPECT_THAT(scheduler.Assign(At(1)), IsEmpty());
  EXPECT_EQ(scheduler.NextExpiry(), At(30));
  scheduler.Expire(At(29));
  EXPECT_THAT(scheduler.Assign(At(29)), IsEmpty());
  scheduler.Expire(At(30));
  EXPECT_FALSE(scheduler.LoadOf(kAnna)->quarantined);
  const Lease lease = scheduler.Assign(At(30)).at(0);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, kUnknown, At(31)).attempt, 1);
}

TEST_F(SchedulerFaultsTest, APictureBetweenFailuresKeepsADeviceFromQuarantine) {
  Scheduler scheduler({.device_failures_max = 2});
  (void)scheduler.Submit(JobOf(kJob, 9), At(0));
  Join(scheduler, kAnna, 100, Worker(1));
  for (int i = 0; i < 8; ++i) {
    const Lease lease = scheduler.Assign(At(0)).at(0);
    const Outcome outcome = i % 2 == 0 ? Outcome::kDeviceFailed : Outcome::kRendered;
    EXPECT_THAT(scheduler.Deliver(kAnna, lease.id, 0, outcome, kUnknown, At(0)).effects.quarantined_sessions,
                IsEmpty());
    for (const LeaseId id : {LeaseId(static_cast<uint64_t>(lease.id) + 1), LeaseId(static_cast<uint64_t>(lease.id) + 2),
                             LeaseId(static_cast<uint64_t>(lease.id) + 3)}) {
      scheduler.Deliver(kAnna, id, 0, Outcome::kRendered, kUnknown, At(0));
    }
    if (scheduler.Load(At(0)).jobs == 0) (void)scheduler.Submit(JobOf(JobId(100 + i), 9), At(0));
  }
}

// ---- Stuck workers and late pictures

TEST_F(SchedulerFaultsTest, ASlowShapeGivesADeviceMoreTimeBeforeItIsStuck) {
  Scheduler scheduler({.session_timeout = absl::Hours(1), .stuck_timeout = absl::Seconds(10)});
  Join(scheduler, kAnna, 9, Worker(2));
  ShowPace(scheduler, kAnna, JobId{1}, absl::Seconds(3), At(0));
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(1));
  EXPECT_EQ(scheduler.NextExpiry(), At(60));
  EXPECT_THAT(scheduler.Expire(At(60)).stuck_sessions, ElementsAre(kAnna));
}

TEST_F(SchedulerFaultsTest, ALatePictureCountsWhileItsImageWaits) {
  Scheduler scheduler({.session_timeout = absl::Hours(1), .first_stuck_timeout = absl::Seconds(10)});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1, Worker(2));
  const Lease lease = scheduler.Assign(At(0)).at(0);
  EXPECT_THAT(scheduler.Expire(At(10)).stuck_sessions, ElementsAre(kAnna));
  ExpectLoad(scheduler, 1, 2, 0);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 1, Outcome::kFailed, kUnknown, At(11)).verdict, Verdict::kLate);
  const Delivery delivery = scheduler.Deliver(kAnna, lease.id, 1, Outcome::kRendered, kUnknown, At(11));
  EXPECT_EQ(delivery.verdict, Verdict::kFinished);
  EXPECT_EQ(delivery.image, (ImageId{kJob, 1}));
  EXPECT_THAT(delivery.effects.abandoned, IsEmpty());
  ExpectLoad(scheduler, 1, 1, 0);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 1, Outcome::kRendered, kUnknown, At(11)).verdict, Verdict::kLate);
}

TEST_F(SchedulerFaultsTest, ALatePictureIsTakenFromWhoeverRendersItAgain) {
  Scheduler scheduler({.session_timeout = absl::Hours(1), .first_stuck_timeout = absl::Seconds(10)});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1, Worker(2));
  const Lease lost = scheduler.Assign(At(0)).at(0);
  scheduler.Expire(At(10));
  Join(scheduler, kBert, 1, Worker(2), At(10));
  const Lease taken = scheduler.Assign(At(10)).at(0);
  ASSERT_EQ(taken.images, Images(kJob, 0, 1));
  const Delivery delivery = scheduler.Deliver(kAnna, lost.id, 1, Outcome::kRendered, kUnknown, At(11));
  EXPECT_EQ(delivery.verdict, Verdict::kFinished);
  ASSERT_THAT(delivery.effects.abandoned, SizeIs(1));
  EXPECT_EQ(delivery.effects.abandoned[0].session, kBert);
  EXPECT_EQ(delivery.effects.abandoned[0].lease, taken.id);
  EXPECT_THAT(delivery.effects.abandoned[0].slots, ElementsAre(1));
  EXPECT_EQ(scheduler.Deliver(kBert, taken.id, 1, Outcome::kRendered, kUnknown, At(12)).verdict, Verdict::kLate);
  EXPECT_EQ(scheduler.Deliver(kBert, taken.id, 0, Outcome::kRendered, kUnknown, At(12)).verdict, Verdict::kFinished);
  EXPECT_EQ(scheduler.Deliver(kAnna, lost.id, 0, Outcome::kRendered, kUnknown, At(12)).verdict, Verdict::kLate);
  ExpectLoad(scheduler, 0, 0, 0);
}

TEST_F(SchedulerFaultsTest, OnlySoManyLateLeasesAreRemembered) {
  Scheduler scheduler({.session_timeout = absl::Hours(1),
                       .first_stuck_timeout = absl::Seconds(10),
                       .attempts_max = 5,
                       .late_leases_max = 1});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 2, Worker(1));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(2));
  scheduler.Expire(At(10));
  EXPECT_EQ(scheduler.Deliver(kAnna, leases[0].id, 0, Outcome::kRendered, kUnknown, At(11)).verdict, Verdict::kLate);
  EXPECT_EQ(scheduler.Deliver(kAnna, leases[1].id, 0, Outcome::kRendered, kUnknown, At(11)).verdict,
            Verdict::kFinished);
}

// ---- Hedges

class SchedulerHedgeTest : public SchedulerFaultsTest {
 protected:
  // Anna has been holding two images of 100 ms since second 0.
  Lease Late(Scheduler& scheduler, JobClass job_class) {
    Join(scheduler, kAnna, 2, Worker(2));
    ShowPace(scheduler, kAnna, JobId{1}, absl::Milliseconds(100), At(0));
    JobPlacement placement = JobOf(kJob, 2);
    placement.job_class = job_class;
    (void)scheduler.Submit(placement, At(0));
    return scheduler.Assign(At(0)).at(0);
  }
};

TEST_F(SchedulerHedgeTest, AnIdleWorkerGetsLateImagesAndTheFirstPictureWins) {
  Scheduler scheduler({.session_timeout = absl::Hours(1), .hedge_share_max = 0.5});
  const Lease lease = Late(scheduler, JobClass::kBulk);
  Join(scheduler, kBert, 9, Worker(2));
  EXPECT_THAT(scheduler.Assign(At(0.9)), IsEmpty());
  const std::vector<Lease> hedges = scheduler.Assign(At(1));
  ASSERT_THAT(hedges, ElementsAre(AllOf(Field(&Lease::session, kBert), Field(&Lease::images, lease.images))));
  // Once.
  Join(scheduler, kCleo, 9, Worker(2));
  EXPECT_THAT(scheduler.Assign(At(9)), IsEmpty());

  const Delivery first = scheduler.Deliver(kBert, hedges[0].id, 0, Outcome::kRendered, kUnknown, At(9));
  EXPECT_EQ(first.verdict, Verdict::kFinished);
  ASSERT_THAT(first.effects.abandoned, SizeIs(1));
  EXPECT_EQ(first.effects.abandoned[0].lease, lease.id);
  EXPECT_THAT(first.effects.abandoned[0].slots, ElementsAre(0));
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, kUnknown, At(9)).verdict, Verdict::kLate);
  const Delivery second = scheduler.Deliver(kAnna, lease.id, 1, Outcome::kRendered, kUnknown, At(9));
  EXPECT_EQ(second.verdict, Verdict::kFinished);
  ASSERT_THAT(second.effects.abandoned, SizeIs(1));
  EXPECT_EQ(second.effects.abandoned[0].lease, hedges[0].id);
  EXPECT_THAT(second.effects.abandoned[0].slots, IsEmpty());  // It was the last.
  ExpectLoad(scheduler, 0, 0, 0);
}

TEST_F(SchedulerHedgeTest, WhatTwoHoldGoesBackToTheQueueOnlyWhenBothAreGone) {
  Scheduler scheduler({.session_timeout = absl::Hours(1), .hedge_share_max = 0.5});
  const Lease lease = Late(scheduler, JobClass::kInteractive);
  Join(scheduler, kBert, 9, Worker(2));
  ASSERT_THAT(scheduler.Assign(At(1)), SizeIs(1));
  scheduler.EndSession(kAnna, At(2));
  ExpectLoad(scheduler, 1, 0, 2);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, kUnknown, At(2)).verdict, Verdict::kLate);
  scheduler.EndSession(kBert, At(3));
  ExpectLoad(scheduler, 1, 2, 0);
}

TEST_F(SchedulerHedgeTest, WhileItsShapeIsQueuedOnlyInteractiveWorkIsHedged) {
  for (const JobClass job_class : {JobClass::kInteractive, JobClass::kNormal}) {
    Scheduler scheduler({.session_timeout = absl::Hours(1), .hedge_share_max = 0.5});
    (void)Late(scheduler, job_class);
    // Of the same shape and queued, but not for Bert: it crashed a worker of that name.
    WorkerCapacity bert = Worker(2);
    bert.worker = "bert";
    (void)scheduler.Submit(JobOf(kLaterJob, 1), At(0));
    Join(scheduler, kCleo, 1, bert);
    ASSERT_THAT(scheduler.Assign(At(0)), SizeIs(1));
    scheduler.EndSession(kCleo, At(0));
    Join(scheduler, kBert, 9, bert);
    EXPECT_THAT(scheduler.Assign(At(2)), SizeIs(job_class == JobClass::kInteractive ? 1 : 0));
  }
}

TEST_F(SchedulerHedgeTest, HedgesStayWithinTheirBudget) {
  // Of two workers and a window of 10 s: 100 ms.
  Scheduler scheduler({.session_timeout = absl::Hours(1), .hedge_window = absl::Seconds(10), .hedge_share_max = 0.005});
  const Lease lease = Late(scheduler, JobClass::kNormal);
  Join(scheduler, kBert, 9, Worker(2));
  const std::vector<Lease> hedges = scheduler.Assign(At(1));
  ASSERT_THAT(hedges, ElementsAre(Field(&Lease::images, SizeIs(1))));
  Finish(scheduler, hedges[0], absl::Milliseconds(100), At(1));
  EXPECT_THAT(scheduler.Assign(At(10.9)), IsEmpty());
  EXPECT_THAT(scheduler.Assign(At(11)), ElementsAre(Field(&Lease::images, ElementsAre(lease.images[1]))));
}

// ---- Speed

TEST_F(SchedulerFaultsTest, WorkersGetWorkInProportionToTheirSpeed) {
  Scheduler scheduler({});
  Join(scheduler, kAnna, 1, Worker(64));
  ShowPace(scheduler, kAnna, JobId{1}, absl::Milliseconds(10), At(0));
  Join(scheduler, kBert, 1, Worker(64));
  ShowPace(scheduler, kBert, JobId{2}, absl::Milliseconds(100), At(0));
  EXPECT_NEAR(scheduler.LoadOf(kBert)->speed / scheduler.LoadOf(kAnna)->speed, 0.1, 0.001);
  Grant(scheduler, kAnna, 2, {}, At(0));
  Grant(scheduler, kBert, 2, {}, At(0));
  (void)scheduler.Submit(JobOf(kJob, 55), At(0));
  std::map<SessionId, size_t> given;
  for (const Lease& lease : scheduler.Assign(At(0))) given[lease.session] += lease.images.size();
  EXPECT_EQ(given[kAnna], 50);
  EXPECT_EQ(given[kBert], 5);
}

TEST_F(SchedulerFaultsTest, ASlowWorkerLeavesTheLastImagesToAFasterOne) {
  Scheduler scheduler({.batches_held_max = 100});
  Join(scheduler, kAnna, 1, Worker(1));
  ShowPace(scheduler, kAnna, JobId{1}, absl::Milliseconds(10), At(0));
  Join(scheduler, kBert, 1, Worker(1));
  ShowPace(scheduler, kBert, JobId{2}, absl::Milliseconds(100), At(0));
  Grant(scheduler, kAnna, 2, {}, At(0));
  Grant(scheduler, kBert, 9, {}, At(0));
  // Anna has room for one only, and will still have done all five before Bert has done one.
  (void)scheduler.Submit(JobOf(kJob, 5), At(0));
  EXPECT_THAT(scheduler.Assign(At(0)), ElementsAre(Field(&Lease::session, kAnna)));
  // With so many that Bert can help, it does.
  (void)scheduler.Submit(JobOf(kLaterJob, 20), At(0));
  EXPECT_THAT(scheduler.Assign(At(0)), ::testing::Each(Field(&Lease::session, kBert)));
  EXPECT_EQ(scheduler.LoadOf(kBert)->images_leased, 2);
}

// What images of one shape take may differ by tenant; what was measured counts, not what was predicted.
TEST_F(SchedulerFaultsTest, TenantsShareWhatTheDeviceWasMeasuredToTake) {
  Scheduler scheduler({});
  JobPlacement slow = JobOf(kJob, 1'000);
  slow.tenant = "slow";
  (void)scheduler.Submit(slow, At(0));
  (void)scheduler.Submit(JobOf(kLaterJob, 1'000), At(0));
  Join(scheduler, kAnna, 0, Worker(1));
  std::map<JobId, int> served;
  for (int i = 1; i <= 400; ++i) {
    Grant(scheduler, kAnna, i, {}, At(0));
    const Lease lease = scheduler.Assign(At(0)).at(0);
    ++served[lease.images[0].job];
    Finish(scheduler, lease, absl::Milliseconds(lease.images[0].job == kJob ? 30 : 10), At(0));
  }
  EXPECT_NEAR(served[kJob], 100, 5);
}

// ---- Interactive work beside bulk

TEST_F(SchedulerFaultsTest, BulkBatchesAreShortWhileSomebodyMayWait) {
  Scheduler scheduler({.batches_held_max = 100});
  Join(scheduler, kAnna, 1, Worker(32));
  ShowPace(scheduler, kAnna, JobId{1}, absl::Milliseconds(10), At(0));
  JobPlacement bulk = JobOf(kJob, 1'000);
  bulk.job_class = JobClass::kBulk;
  (void)scheduler.Submit(bulk, At(0));
  JobPlacement interactive = JobOf(kLaterJob, 12, Square(128));
  interactive.job_class = JobClass::kInteractive;
  (void)scheduler.Submit(interactive, At(0));
  Grant(scheduler, kAnna, 3, {}, At(0));
  std::map<JobId, size_t> sizes;
  for (const Lease& lease : scheduler.Assign(At(0))) sizes[lease.images[0].job] = lease.images.size();
  EXPECT_EQ(sizes[kLaterJob], 12);  // It is not cut itself.
  EXPECT_EQ(sizes[kJob], 5);
  Grant(scheduler, kAnna, 4, {}, At(0));
  EXPECT_THAT(scheduler.Assign(At(0.9)), ElementsAre(Field(&Lease::images, SizeIs(5))));
  Grant(scheduler, kAnna, 5, {}, At(1));
  EXPECT_THAT(scheduler.Assign(At(1)), ElementsAre(Field(&Lease::images, SizeIs(32))));
}

TEST_F(SchedulerFaultsTest, InteractiveWorkIsRememberedFromWhenItWasLeased) {
  Scheduler scheduler({});
  Join(scheduler, kAnna, 1, Worker(32));
  ShowPace(scheduler, kAnna, JobId{1}, absl::Milliseconds(10), At(0));
  JobPlacement interactive = JobOf(kJob, 1, Square(128));
  interactive.job_class = JobClass::kInteractive;
  (void)scheduler.Submit(interactive, At(0));
  (void)scheduler.Submit(JobOf(kLaterJob, 1'000), At(0));
  Grant(scheduler, kAnna, 2, {}, At(5));
  EXPECT_THAT(scheduler.Assign(At(5)), ElementsAre(Field(&Lease::images, Images(kJob, 0, 0))));
  Grant(scheduler, kAnna, 3, {}, At(5.5));
  EXPECT_THAT(scheduler.Assign(At(5.5)), ElementsAre(Field(&Lease::images, SizeIs(5))));
}

// ---- Shapes

TEST_F(SchedulerFaultsTest, AWorkerStaysWithItsShapeWhileThatIsLevel) {
  Scheduler scheduler({.batches_held_max = 1'000});
  (void)scheduler.Submit(JobOf(JobId{1}, 1'000, Square(64)), At(0));
  (void)scheduler.Submit(JobOf(JobId{2}, 1'000, Square(64, 2)), At(0));
  Join(scheduler, kAnna, 200, Worker(1));
  std::map<JobId, int> served;
  JobId last{};
  int changes = 0;
  for (const Lease& lease : scheduler.Assign(At(0))) {
    ++served[lease.images[0].job];
    if (lease.images[0].job != last) ++changes;
    last = lease.images[0].job;
  }
  // Images of the second take one and a half times as long.
  EXPECT_NEAR(served[JobId{1}], 120, 2);
  EXPECT_NEAR(served[JobId{2}], 80, 2);
  EXPECT_LE(changes, 100);
}

// ---- Deadlines

TEST_F(SchedulerFaultsTest, ADeadlineThatCannotBeMetIsRefused) {
  Scheduler scheduler({});
  JobPlacement placement = JobOf(JobId{2}, 10);
  placement.deadline = At(1);
  // Nobody knows what it takes.
  EXPECT_FALSE(scheduler.Submit(placement, At(0)).has_value());
  scheduler.Cancel(placement.id);
  Join(scheduler, kAnna, 1, Worker(1));
  ShowPace(scheduler, kAnna, JobId{3}, absl::Milliseconds(200), At(0));
  placement.id = JobId{4};
  Grant(scheduler, kAnna, 2, {}, At(0));
  EXPECT_THAT(scheduler.Submit(placement, At(0)),
              Optional(VariantWith<DeadlineUnreachable>(Field(&DeadlineUnreachable::predicted, absl::Seconds(2)))));
  placement.deadline = At(2);
  EXPECT_FALSE(scheduler.Submit(placement, At(0)).has_value());
  // What is queued already stands before it.
  placement.id = JobId{5};
  EXPECT_THAT(scheduler.Submit(placement, At(0)),
              Optional(VariantWith<DeadlineUnreachable>(Field(&DeadlineUnreachable::predicted, absl::Seconds(4)))));
}

TEST_F(SchedulerFaultsTest, AfterItsDeadlineAJobGetsNothingAndIsToldOf) {
  Scheduler scheduler({.session_timeout = absl::Hours(1)});
  JobPlacement placement = JobOf(kJob, 4);
  placement.deadline = At(5);
  (void)scheduler.Submit(placement, At(0));
  Join(scheduler, kAnna, 1, Worker(1));
  const Lease lease = scheduler.Assign(At(4.9)).at(0);
  Grant(scheduler, kAnna, 2, {lease.id}, At(4.9));
  EXPECT_EQ(scheduler.NextExpiry(), At(5));
  EXPECT_THAT(scheduler.Assign(At(5)), IsEmpty());
  EXPECT_LE(scheduler.NextExpiry(), At(5));
  EXPECT_THAT(scheduler.Expire(At(5)).expired_jobs, ElementsAre(kJob));
  EXPECT_THAT(scheduler.Expire(At(6)).expired_jobs, IsEmpty());
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, kUnknown, At(6)).verdict, Verdict::kFinished);
  scheduler.Cancel(kJob);
  ExpectLoad(scheduler, 0, 0, 0);
}

}  // namespace
}  // namespace turbofleet
