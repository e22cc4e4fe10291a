#include "coordinator/scheduler/scheduler.h"

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/scheduler_fixture.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Verdict = Delivery::Verdict;

class SchedulerTest : public SchedulerFixture {};

// ---- Leases and credit

TEST_F(SchedulerTest, WorkIsSentOnlyAgainstCredit) {
  Scheduler scheduler({});
  EXPECT_FALSE(scheduler.Submit(JobOf(kJob, 8), At(0)).has_value());
  scheduler.OpenSession(kAnna, Worker(2), At(0));
  EXPECT_THAT(scheduler.Assign(At(0)), IsEmpty());

  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, {.batches_taken_max = 2}, At(0), &effects_));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(2));
  EXPECT_EQ(leases[0].images, Images(kJob, 0, 1));
  EXPECT_EQ(leases[1].images, Images(kJob, 2, 3));
  EXPECT_LT(leases[0].id, leases[1].id);

  // The grant is a total: to hear it again gives nothing new, a higher one gives the difference.
  const WorkerReport same = {
      .batches_taken_max = 2, .leases = {leases[0].id, leases[1].id}, .last_lease_received = leases[1].id};
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, same, At(1), &effects_));
  EXPECT_THAT(scheduler.Assign(At(1)), IsEmpty());
  WorkerReport more = same;
  more.batches_taken_max = 3;
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, more, At(1), &effects_));
  EXPECT_THAT(scheduler.Assign(At(1)), SizeIs(1));
  ExpectLoad(scheduler, 1, 2, 6);
}

// Whatever a worker claims to be able to take, it gets no more than it can hold.
TEST_F(SchedulerTest, CreditWithoutEndIsCapped) {
  Scheduler scheduler({.batches_held_max = 3});
  (void)scheduler.Submit(JobOf(kJob, 100), At(0));
  Join(scheduler, kAnna, int64_t{1} << 40, Worker(2));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(3));
  for (int slot : {0, 1}) scheduler.Deliver(kAnna, leases[0].id, slot, Outcome::kRendered, absl::ZeroDuration(), At(1));
  EXPECT_THAT(scheduler.Assign(At(1)), SizeIs(1));
}

TEST_F(SchedulerTest, ABatchHasOneModelAndOneShape) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(JobId{1}, 1, Square(64)), At(0));
  (void)scheduler.Submit(JobOf(JobId{2}, 1, Square(128)), At(0));
  (void)scheduler.Submit(JobOf(JobId{3}, 1, Square(64, 2)), At(0));
  JobPlacement other_model = JobOf(JobId{4}, 1);
  other_model.model_digest = "sha256:b";
  (void)scheduler.Submit(other_model, At(0));
  (void)scheduler.Submit(JobOf(JobId{5}, 1, Square(64)), At(0));
  Join(scheduler, kAnna, 4);

  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(3));
  // Jobs that share a shape share a batch.
  EXPECT_THAT(leases[0].images, ElementsAre(ImageId{JobId{1}, 0}, ImageId{JobId{5}, 0}));
  EXPECT_EQ(leases[0].shape, Square(64));
  EXPECT_THAT(leases[1].images, ElementsAre(ImageId{JobId{2}, 0}));
  EXPECT_THAT(leases[2].images, ElementsAre(ImageId{JobId{3}, 0}));
  ExpectLoad(scheduler, 5, 1, 4);
}

TEST_F(SchedulerTest, WorkersGetOnlyWhatTheyCanRender) {
  Scheduler scheduler({});
  BatchShape tiny = Square(64);
  tiny.tiny_vae = true;
  (void)scheduler.Submit(JobOf(JobId{1}, 1, Square(512)), At(0));
  (void)scheduler.Submit(JobOf(JobId{2}, 1, tiny), At(0));
  Join(scheduler, kAnna, 4, {.model_digest = kModel, .size_max = 256, .batch_images_max = 4, .has_tiny_vae = false});
  EXPECT_THAT(scheduler.Assign(At(0)), IsEmpty());
  Join(scheduler, kBert, 4, {.model_digest = kModel, .size_max = 256, .batch_images_max = 4, .has_tiny_vae = true});
  EXPECT_THAT(scheduler.Assign(At(0)), ElementsAre(Field(&Lease::shape, tiny)));
  Join(scheduler, kCleo, 4, {.model_digest = kModel, .size_max = 512, .batch_images_max = 4, .has_tiny_vae = false});
  EXPECT_THAT(scheduler.Assign(At(0)), ElementsAre(Field(&Lease::shape, Square(512))));
}

// ---- Spread

TEST_F(SchedulerTest, AJobSpreadsOverAllWorkers) {
  Scheduler scheduler({});
  for (const SessionId worker : {kAnna, kBert, kCleo}) Join(scheduler, worker, 2);
  (void)scheduler.Submit(JobOf(kJob, 9), At(0));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(3));
  for (const Lease& lease : leases) EXPECT_THAT(lease.images, SizeIs(3));
  EXPECT_NE(leases[0].session, leases[1].session);
  EXPECT_NE(leases[1].session, leases[2].session);
  EXPECT_NE(leases[0].session, leases[2].session);
}

// With much to do batches are full, and the last ones are cut so that all workers end together.
TEST_F(SchedulerTest, FullBatchesFirstThenAnEvenTail) {
  Scheduler scheduler({});
  Join(scheduler, kAnna, 2);
  Join(scheduler, kBert, 2);
  (void)scheduler.Submit(JobOf(kJob, 20), At(0));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(4));
  EXPECT_THAT(leases[0].images, SizeIs(8));
  EXPECT_THAT(leases[1].images, SizeIs(8));
  EXPECT_THAT(leases[2].images, SizeIs(2));
  EXPECT_THAT(leases[3].images, SizeIs(2));
}

TEST_F(SchedulerTest, WorkersThatLeaveDoNotCountForTheSpread) {
  Scheduler scheduler({});
  Join(scheduler, kAnna, 1);
  Join(scheduler, kBert, 1);
  TURBOFLEET_ASSERT_OK(scheduler.Report(kBert, {.batches_taken_max = 1, .draining = true}, At(0), &effects_));
  (void)scheduler.Submit(JobOf(kJob, 8), At(0));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(1));
  EXPECT_EQ(leases[0].session, kAnna);
  EXPECT_THAT(leases[0].images, SizeIs(8));
}

TEST_F(SchedulerTest, LeastLoadedWorkersAreServedFirstAndEqualsInTurn) {
  Scheduler scheduler({});
  Join(scheduler, kAnna, 2, Worker(1));
  Join(scheduler, kBert, 2, Worker(1));
  (void)scheduler.Submit(JobOf(kJob, 3), At(0));
  std::vector<SessionId> order;
  for (const Lease& lease : scheduler.Assign(At(0))) order.push_back(lease.session);
  EXPECT_THAT(order, ElementsAre(kAnna, kBert, kAnna));
  (void)scheduler.Submit(JobOf(kLaterJob, 1), At(0));
  EXPECT_THAT(scheduler.Assign(At(0)), ElementsAre(Field(&Lease::session, kBert)));
}

// ---- Fairness

TEST_F(SchedulerTest, AJobThatComesLateIsServedLevelWithOneThatIsLarge) {
  Scheduler scheduler({.batches_held_max = 1'000});
  (void)scheduler.Submit(JobOf(kJob, 1'000), At(0));
  Join(scheduler, kAnna, 50, Worker(1));
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(50));
  (void)scheduler.Submit(JobOf(kLaterJob, 1'000), At(0));
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, {.batches_taken_max = 70}, At(0), &effects_));
  std::map<JobId, int> served;
  int ahead_max = 0;
  for (const Lease& lease : scheduler.Assign(At(0))) {
    ++served[lease.images[0].job];
    ahead_max = std::max(ahead_max, std::abs(served[kJob] - served[kLaterJob]));
  }
  // It does not catch up on the 50 that the other had before it came.
  EXPECT_EQ(served[kJob], 10);
  EXPECT_EQ(served[kLaterJob], 10);
  EXPECT_EQ(ahead_max, 1);
}

// A shape that few workers serve lags behind; a job that joins it must not have to wait until it has caught up with the
// rest.
TEST_F(SchedulerTest, AJobThatComesLateIsLevelWithTheLaggardsOfItsShape) {
  Scheduler scheduler({.batches_held_max = 1'000});
  (void)scheduler.Submit(JobOf(JobId{1}, 100, Square(512)), At(0));
  (void)scheduler.Submit(JobOf(JobId{2}, 100'000 - 200, Square(64)), At(0));
  Join(scheduler, kAnna, 900, {.model_digest = kModel, .size_max = 64, .batch_images_max = 100, .has_tiny_vae = false});
  (void)scheduler.Assign(At(0));
  (void)scheduler.Submit(JobOf(JobId{3}, 100, Square(512)), At(0));
  Join(scheduler, kBert, 20, Worker(1));
  std::map<JobId, int> served;
  for (const Lease& lease : scheduler.Assign(At(0))) ++served[lease.images[0].job];
  EXPECT_EQ(served[JobId{1}], 10);
  EXPECT_EQ(served[JobId{3}], 10);
}

// Fair in work, not in number: four steps and four times the pixels cost what they cost.
TEST_F(SchedulerTest, LargeImagesAreServedLessOften) {
  Scheduler scheduler({.batches_held_max = 1'000});
  (void)scheduler.Submit(JobOf(kJob, 1'000, Square(64, 1)), At(0));
  (void)scheduler.Submit(JobOf(kLaterJob, 1'000, Square(128, 1)), At(0));
  Join(scheduler, kAnna, 100, Worker(1));
  std::map<JobId, int> served;
  for (const Lease& lease : scheduler.Assign(At(0))) ++served[lease.images[0].job];
  EXPECT_EQ(served[kJob], 80);
  EXPECT_EQ(served[kLaterJob], 20);
}

TEST_F(SchedulerTest, APausedJobGetsNothingAndOthersGoOn) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 4), At(0));
  (void)scheduler.Submit(JobOf(kLaterJob, 4), At(0));
  scheduler.SetPaused(kJob, true);
  Join(scheduler, kAnna, 4);
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(1));
  EXPECT_EQ(leases[0].images, Images(kLaterJob, 0, 3));
  // What comes back to a paused job waits like the rest of it.
  scheduler.SetPaused(kJob, false);
  const std::vector<Lease> resumed = scheduler.Assign(At(0));
  ASSERT_THAT(resumed, SizeIs(1));
  scheduler.SetPaused(kJob, true);
  scheduler.EndSession(kAnna, At(1));
  Join(scheduler, kBert, 4);
  const std::vector<Lease> others = scheduler.Assign(At(1));
  ASSERT_THAT(others, SizeIs(2));  // In halves, for they may have killed Anna.
  EXPECT_EQ(others[0].images, Images(kLaterJob, 0, 1));
  scheduler.SetPaused(kJob, false);
  const std::vector<Lease> rest = scheduler.Assign(At(1));
  ASSERT_THAT(rest, SizeIs(1));
  EXPECT_EQ(rest[0].images, Images(kJob, 0, 3));
}

// ---- Ends

TEST_F(SchedulerTest, AnImageEndsOnceAndTheJobWithItsLast) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lease = scheduler.Assign(At(3)).at(0);
  const Delivery first = scheduler.Deliver(kAnna, lease.id, 1, Outcome::kRendered, absl::ZeroDuration(), At(4));
  EXPECT_EQ(first.verdict, Verdict::kFinished);
  EXPECT_EQ(first.image, (ImageId{kJob, 1}));
  EXPECT_EQ(first.attempt, 1);
  EXPECT_EQ(first.queue_wait, absl::Seconds(3));
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 1, Outcome::kRendered, absl::ZeroDuration(), At(4)).verdict,
            Verdict::kLate);
  ExpectLoad(scheduler, 1, 0, 1);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(4)).verdict,
            Verdict::kFinished);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(4)).verdict,
            Verdict::kLate);
  ExpectLoad(scheduler, 0, 0, 0);
  EXPECT_EQ(scheduler.Load(At(4)).prompt_bytes, 0);
}

TEST_F(SchedulerTest, DeliveriesFromElsewhereAreLate) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lease = scheduler.Assign(At(0)).at(0);
  Join(scheduler, kBert, 1);
  EXPECT_EQ(scheduler.Deliver(kBert, lease.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kLate);
  for (const int slot : {-1, 2, 1'000'000}) {
    EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, slot, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
              Verdict::kLate);
  }
  EXPECT_EQ(scheduler.Deliver(kAnna, LeaseId{99}, 0, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kLate);
  ExpectLoad(scheduler, 1, 0, 2);
}

TEST_F(SchedulerTest, WhatNoWorkerCanRenderFailsAtOnce) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lease = scheduler.Assign(At(0)).at(0);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRefused, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kFinished);
  ExpectLoad(scheduler, 0, 0, 0);
}

// ---- Lost work

// A worker that falls silent loses its batch; what it sends later is refused, because a second worker may have
// delivered the same image meanwhile.
TEST_F(SchedulerTest, SilentWorkerLosesItsBatchToAnother) {
  Scheduler scheduler({.session_timeout = absl::Seconds(10)});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lost = scheduler.Assign(At(0)).at(0);
  EXPECT_EQ(scheduler.NextExpiry(), At(10));
  (void)scheduler.Submit(JobOf(kLaterJob, 1), At(0));
  EXPECT_THAT(scheduler.Expire(At(9.9)).lost_sessions, IsEmpty());

  const Effects effects = scheduler.Expire(At(10));
  EXPECT_THAT(effects.lost_sessions, ElementsAre(kAnna));
  EXPECT_THAT(effects.failed, IsEmpty());
  EXPECT_THAT(effects.requeued,
              ElementsAre(AllOf(Field(&Requeue::reason, RetryReason::kWorkerLost), Field(&Requeue::images, 2))));
  EXPECT_EQ(scheduler.NextExpiry(), absl::InfiniteFuture());

  Join(scheduler, kBert, 1, Worker(2), At(10));
  const Lease taken = scheduler.Assign(At(10)).at(0);
  // In front: before the job that came meanwhile.
  EXPECT_EQ(taken.images, Images(kJob, 0, 0));
  EXPECT_EQ(scheduler.Deliver(kAnna, lost.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(11)).verdict,
            Verdict::kLate);
  const Delivery delivery = scheduler.Deliver(kBert, taken.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(11));
  EXPECT_EQ(delivery.verdict, Verdict::kFinished);
  EXPECT_EQ(delivery.attempt, 2);
}

TEST_F(SchedulerTest, AReportKeepsASessionAlive) {
  Scheduler scheduler({.session_timeout = absl::Seconds(10)});
  Join(scheduler, kAnna, 1);
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, {}, At(9), &effects_));
  EXPECT_EQ(scheduler.NextExpiry(), At(19));
  EXPECT_THAT(scheduler.Expire(At(18)).lost_sessions, IsEmpty());
}

TEST_F(SchedulerTest, ReturnedImagesKeepTheirOrderInFront) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 6), At(0));
  Join(scheduler, kAnna, 2, Worker(2));
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(2));
  scheduler.EndSession(kAnna, At(1));
  Join(scheduler, kBert, 3, Worker(8));
  const std::vector<Lease> leases = scheduler.Assign(At(1));
  ASSERT_THAT(leases, SizeIs(3));
  EXPECT_EQ(leases[0].images, Images(kJob, 0, 0));
  EXPECT_EQ(leases[1].images, Images(kJob, 1, 1));
  EXPECT_EQ(leases[2].images, Images(kJob, 2, 5));
}

// Only the batch that was on the device can have killed the worker, so only its images lose a try.
TEST_F(SchedulerTest, ImagesThatWaitedOnALostWorkerAreNotCharged) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 4), At(0));
  Join(scheduler, kAnna, 2, Worker(2));
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(2));
  scheduler.EndSession(kAnna, At(1));
  Join(scheduler, kBert, 4, Worker(4));
  std::vector<int> attempts;
  for (const Lease& lease : scheduler.Assign(At(1))) {
    for (size_t slot = 0; slot < lease.images.size(); ++slot) {
      const Delivery delivery = scheduler.Deliver(kBert, lease.id, static_cast<int32_t>(slot), Outcome::kRendered,
                                                  absl::ZeroDuration(), At(2));
      attempts.push_back(delivery.attempt);
    }
  }
  EXPECT_THAT(attempts, ElementsAre(2, 2, 1, 1));
}

// Two images share a batch and one of them kills every worker. It fails; its neighbour does not.
TEST_F(SchedulerTest, APoisonousImageFailsAlone) {
  Scheduler scheduler({.attempts_max = 3});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  uint64_t worker = 0;
  std::vector<FailedImage> failed;
  std::vector<int> finished;
  std::vector<size_t> batches;
  for (int round = 0; round < 10 && scheduler.Load(At(0)).jobs > 0; ++round) {
    const SessionId id{++worker};
    Join(scheduler, id, 1);
    const Lease lease = scheduler.Assign(At(round)).at(0);
    batches.push_back(lease.images.size());
    if (lease.images[0].index == 0) {
      const Effects effects = scheduler.EndSession(id, At(round));
      failed.insert(failed.end(), effects.failed.begin(), effects.failed.end());
    } else {
      finished.push_back(
          scheduler.Deliver(id, lease.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(round)).image.index);
    }
  }
  EXPECT_THAT(batches, ElementsAre(2, 1, 1, 1));
  ASSERT_THAT(failed, SizeIs(1));
  EXPECT_EQ(failed[0].image, (ImageId{kJob, 0}));
  EXPECT_EQ(failed[0].attempts, 3);
  EXPECT_EQ(failed[0].reason, RetryReason::kPoison);
  EXPECT_THAT(finished, ElementsAre(1));
  ExpectLoad(scheduler, 0, 0, 0);
}

// A render that fails is tried again, elsewhere if there is an elsewhere.
TEST_F(SchedulerTest, AFailedRenderIsTriedOnAnotherWorker) {
  Scheduler scheduler({.attempts_max = 3});
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 10);
  Join(scheduler, kBert, 0);
  const Lease first = scheduler.Assign(At(0)).at(0);
  EXPECT_EQ(scheduler.Deliver(kAnna, first.id, 0, Outcome::kFailed, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kRetried);
  // Anna has credit and Bert has none yet, but Bert will.
  EXPECT_THAT(scheduler.Assign(At(1)), IsEmpty());
  TURBOFLEET_ASSERT_OK(scheduler.Report(kBert, {.batches_taken_max = 10}, At(1), &effects_));
  const std::vector<Lease> second = scheduler.Assign(At(1));
  ASSERT_THAT(second, ElementsAre(Field(&Lease::session, kBert)));
  EXPECT_EQ(scheduler.Deliver(kBert, second[0].id, 0, Outcome::kFailed, absl::ZeroDuration(), At(2)).verdict,
            Verdict::kRetried);
  // Nobody else is left but the one that failed before the other one did.
  scheduler.EndSession(kBert, At(2));
  const std::vector<Lease> third = scheduler.Assign(At(2));
  ASSERT_THAT(third, ElementsAre(Field(&Lease::session, kAnna)));
  const Delivery last = scheduler.Deliver(kAnna, third[0].id, 0, Outcome::kFailed, absl::ZeroDuration(), At(3));
  EXPECT_EQ(last.verdict, Verdict::kFinished);
  EXPECT_EQ(last.attempt, 3);
  ExpectLoad(scheduler, 0, 0, 0);
}

TEST_F(SchedulerTest, AnOnlyWorkerMayTryItsOwnFailureAgain) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 10);
  const Lease first = scheduler.Assign(At(0)).at(0);
  scheduler.Deliver(kAnna, first.id, 0, Outcome::kFailed, absl::ZeroDuration(), At(1));
  EXPECT_THAT(scheduler.Assign(At(1)), ElementsAre(Field(&Lease::session, kAnna)));
}

TEST_F(SchedulerTest, AWorkerThatDrainsGivesBackFreeOfCharge) {
  Scheduler scheduler({.attempts_max = 1});
  (void)scheduler.Submit(JobOf(kJob, 4), At(0));
  Join(scheduler, kAnna, 2, Worker(2));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(2));
  const WorkerReport leaving = {
      .batches_taken_max = 2, .leases = {leases[0].id}, .last_lease_received = leases[1].id, .draining = true};
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, leaving, At(1), &effects_));
  EXPECT_THAT(effects_.failed, IsEmpty());
  EXPECT_THAT(effects_.requeued, ElementsAre(Field(&Requeue::reason, RetryReason::kReleased)));
  ExpectLoad(scheduler, 1, 2, 2);
  // What it kept it may still deliver; new work it gets none.
  EXPECT_EQ(scheduler.Deliver(kAnna, leases[0].id, 0, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kFinished);
  EXPECT_EQ(scheduler.Deliver(kAnna, leases[1].id, 0, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kLate);
  EXPECT_THAT(scheduler.Assign(At(1)), IsEmpty());
  EXPECT_TRUE(scheduler.LoadOf(kAnna)->draining);
}

TEST_F(SchedulerTest, AWorkerThatDropsWorkIsCharged) {
  Scheduler scheduler({.attempts_max = 1});
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lease = scheduler.Assign(At(0)).at(0);
  TURBOFLEET_ASSERT_OK(
      scheduler.Report(kAnna, {.batches_taken_max = 1, .last_lease_received = lease.id}, At(1), &effects_));
  EXPECT_THAT(effects_.failed, ElementsAre(Field(&FailedImage::reason, RetryReason::kReleased)));
}

// A report that crossed a batch on its way says nothing about it.
TEST_F(SchedulerTest, LeasesThatTheWorkerHasNotSeenAreNotGivenBack) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 1);
  EXPECT_THAT(scheduler.Assign(At(0)), SizeIs(1));
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, {.batches_taken_max = 1}, At(1), &effects_));
  ExpectLoad(scheduler, 1, 0, 1);
}

TEST_F(SchedulerTest, ReportsThatContradictWhatWasSentAreRefused) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 1), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lease = scheduler.Assign(At(0)).at(0);
  EXPECT_THAT(scheduler.Report(kAnna, {.batches_taken_max = -1}, At(1), &effects_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("batches_taken_max")));
  EXPECT_THAT(scheduler.Report(kAnna, {.last_lease_received = LeaseId{99}}, At(1), &effects_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("last_lease_received")));
  EXPECT_THAT(scheduler.Report(kAnna, {.leases = {lease.id}}, At(1), &effects_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("report.leases")));
  EXPECT_THAT(scheduler.Report(kCleo, {}, At(1), &effects_), StatusIs(absl::StatusCode::kNotFound));
}

// ---- Stuck workers

// A device can hang while its program goes on reporting.
TEST_F(SchedulerTest, AStuckWorkerLosesItsWorkUntilItMoves) {
  Scheduler scheduler({.session_timeout = absl::Seconds(10), .first_stuck_timeout = absl::Seconds(15)});
  Join(scheduler, kAnna, 3, Worker(2));
  // Idle, it may stand still for as long as it likes.
  for (int second = 1; second <= 100; ++second) {
    TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, {.batches_taken_max = 3, .progress = 5}, At(second), &effects_));
    EXPECT_THAT(scheduler.Expire(At(second)).stuck_sessions, IsEmpty());
  }
  (void)scheduler.Submit(JobOf(kJob, 2), At(100));
  const Lease lease = scheduler.Assign(At(100)).at(0);
  WorkerReport report = {
      .batches_taken_max = 3, .leases = {lease.id}, .last_lease_received = lease.id, .draining = false, .progress = 5};
  for (const double at : {105, 110, 114}) {
    TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, report, At(at), &effects_));
    EXPECT_THAT(scheduler.Expire(At(at)).stuck_sessions, IsEmpty());
  }
  EXPECT_EQ(scheduler.NextExpiry(), At(115));
  const Effects effects = scheduler.Expire(At(115));
  EXPECT_THAT(effects.stuck_sessions, ElementsAre(kAnna));
  EXPECT_THAT(effects.lost_sessions, IsEmpty());
  EXPECT_THAT(effects.abandoned,
              ElementsAre(AllOf(Field(&Abandonment::lease, lease.id), Field(&Abandonment::slots, IsEmpty()))));
  EXPECT_THAT(effects.requeued, ElementsAre(Field(&Requeue::reason, RetryReason::kWorkerStuck)));
  EXPECT_TRUE(scheduler.LoadOf(kAnna)->stuck);
  EXPECT_THAT(scheduler.Assign(At(115)), IsEmpty());

  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, report, At(116), &effects_));
  EXPECT_THAT(scheduler.Assign(At(116)), IsEmpty());
  report.progress = 6;
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, report, At(117), &effects_));
  EXPECT_THAT(scheduler.Assign(At(117)), SizeIs(1));
}

TEST_F(SchedulerTest, ProgressAndDeliveriesKeepAWorkerFromBeingStuck) {
  Scheduler scheduler({.session_timeout = absl::Seconds(100), .first_stuck_timeout = absl::Seconds(15)});
  (void)scheduler.Submit(JobOf(kJob, 2), At(0));
  Join(scheduler, kAnna, 1);
  const Lease lease = scheduler.Assign(At(0)).at(0);
  const WorkerReport moved = {
      .batches_taken_max = 1, .leases = {lease.id}, .last_lease_received = lease.id, .draining = false, .progress = 1};
  TURBOFLEET_ASSERT_OK(scheduler.Report(kAnna, moved, At(14), &effects_));
  EXPECT_EQ(scheduler.NextExpiry(), At(29));
  scheduler.Deliver(kAnna, lease.id, 0, Outcome::kRendered, absl::ZeroDuration(), At(28));
  EXPECT_EQ(scheduler.NextExpiry(), At(43));
}

// ---- Cancel

TEST_F(SchedulerTest, CancelForgetsTheJobAndTellsWhatToAbandon) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(kJob, 3), At(0));
  (void)scheduler.Submit(JobOf(kLaterJob, 1), At(0));
  Join(scheduler, kAnna, 1, Worker(3));
  Join(scheduler, kBert, 1, Worker(1));
  const std::vector<Lease> leases = scheduler.Assign(At(0));
  ASSERT_THAT(leases, SizeIs(2));
  ASSERT_THAT(leases[0].images, ElementsAre(ImageId{kJob, 0}, ImageId{kLaterJob, 0}));
  ASSERT_THAT(leases[1].images, ElementsAre(ImageId{kJob, 1}));
  ExpectLoad(scheduler, 2, 1, 3);

  const Effects effects = scheduler.Cancel(kJob);
  ASSERT_THAT(effects.abandoned, SizeIs(2));
  EXPECT_EQ(effects.abandoned[0].session, kAnna);
  EXPECT_EQ(effects.abandoned[0].lease, leases[0].id);
  EXPECT_THAT(effects.abandoned[0].slots, ElementsAre(0));  // The other job's image goes on.
  EXPECT_EQ(effects.abandoned[1].session, kBert);
  EXPECT_THAT(effects.abandoned[1].slots, IsEmpty());
  ExpectLoad(scheduler, 1, 0, 1);
  EXPECT_EQ(scheduler.Load(At(0)).prompt_bytes, 10);
  EXPECT_EQ(scheduler.Deliver(kAnna, leases[0].id, 0, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kLate);
  EXPECT_EQ(scheduler.Deliver(kAnna, leases[0].id, 1, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kFinished);
  EXPECT_THAT(scheduler.Cancel(kJob).abandoned, IsEmpty());
  ExpectLoad(scheduler, 0, 0, 0);
}

// ---- Limits

TEST_F(SchedulerTest, LimitsRefuseTheWholeJobByName) {
  Scheduler scheduler({.images_queued_max = 10, .jobs_max = 2, .prompt_bytes_max = 25});
  EXPECT_FALSE(scheduler.Submit(JobOf(JobId{1}, 6), At(0)).has_value());
  EXPECT_THAT(scheduler.Submit(JobOf(JobId{2}, 5), At(0)), Refuses("images_queued_max"));
  ExpectLoad(scheduler, 1, 6, 0);
  JobPlacement wordy = JobOf(JobId{2}, 1);
  wordy.prompt_bytes = 16;
  EXPECT_THAT(scheduler.Submit(wordy, At(0)), Refuses("prompt_bytes_max"));
  EXPECT_FALSE(scheduler.Submit(JobOf(JobId{2}, 4), At(0)).has_value());
  EXPECT_THAT(scheduler.Submit(JobOf(JobId{3}, 1), At(0)), Refuses("jobs_max"));
  // Room comes back with what is leased, and with what ends.
  scheduler.Cancel(JobId{1});
  EXPECT_FALSE(scheduler.Submit(JobOf(JobId{3}, 6), At(0)).has_value());
}

TEST_F(SchedulerTest, TheAgeOfTheQueueIsThatOfItsOldestImage) {
  Scheduler scheduler({});
  EXPECT_EQ(scheduler.Load(At(5)).oldest_queued_age, absl::ZeroDuration());
  (void)scheduler.Submit(JobOf(kJob, 1), At(1));
  (void)scheduler.Submit(JobOf(kLaterJob, 1, Square(128)), At(3));
  EXPECT_EQ(scheduler.Load(At(5)).oldest_queued_age, absl::Seconds(4));
  Join(scheduler, kAnna, 1);
  EXPECT_THAT(scheduler.Assign(At(5)), SizeIs(1));
  EXPECT_EQ(scheduler.Load(At(5)).oldest_queued_age, absl::Seconds(2));
}

// ---- Open-ended jobs

JobPlacement OpenEnded(JobId id) { return JobOf(id, /*images=*/0); }

TEST_F(SchedulerTest, AnOpenEndedJobStaysWithoutImagesUntilItIsCancelled) {
  Scheduler scheduler({.images_queued_max = 1, .jobs_max = 1, .prompt_bytes_max = 10});
  // It was admitted when it was made durable, so no limit is in its way, and it is in no call's way.
  EXPECT_FALSE(scheduler.Submit(OpenEnded(JobId{1}), At(0)).has_value());
  EXPECT_FALSE(scheduler.Submit(OpenEnded(JobId{2}), At(0)).has_value());
  scheduler.AddImages(JobId{2}, 0, 5, {}, At(0));
  EXPECT_FALSE(scheduler.Submit(JobOf(JobId{3}, 1), At(0)).has_value());
  ExpectLoad(scheduler, 3, 6, 0);
  Join(scheduler, kAnna, 9);
  for (const Lease& lease : scheduler.Assign(At(0))) {
    for (size_t slot = 0; slot < lease.images.size(); ++slot) {
      scheduler.Deliver(kAnna, lease.id, static_cast<int32_t>(slot), Outcome::kRendered, absl::ZeroDuration(), At(1));
    }
  }
  ExpectLoad(scheduler, 2, 0, 0);
  EXPECT_EQ(scheduler.Load(At(1)).prompt_bytes, 20);
  scheduler.Cancel(JobId{1});
  scheduler.Cancel(JobId{2});
  ExpectLoad(scheduler, 0, 0, 0);
  EXPECT_EQ(scheduler.Load(At(1)).prompt_bytes, 0);
}

TEST_F(SchedulerTest, RangesAreServedByIndexWithoutThoseThatHaveEnded) {
  Scheduler scheduler({});
  (void)scheduler.Submit(OpenEnded(kJob), At(0));
  scheduler.AddImages(kJob, 1'000, 4, std::vector<int32_t>{1'001, 1'003}, At(1));
  scheduler.AddImages(kJob, 0, 4, std::vector<int32_t>{0}, At(2));
  EXPECT_EQ(scheduler.Queued(kJob), 5);
  Join(scheduler, kAnna, 1, Worker(4));
  const Lease lease = scheduler.Assign(At(5)).at(0);
  EXPECT_THAT(lease.images, ElementsAre(ImageId{kJob, 1}, ImageId{kJob, 2}, ImageId{kJob, 3}, ImageId{kJob, 1'000}));
  EXPECT_EQ(scheduler.Queued(kJob), 1);
  EXPECT_EQ(scheduler.Leased(kJob), 4);
  // Each has waited since it was added.
  const auto wait_of = [&](int slot) {
    return scheduler.Deliver(kAnna, lease.id, slot, Outcome::kRendered, absl::ZeroDuration(), At(6)).queue_wait;
  };
  EXPECT_EQ(wait_of(0), absl::Seconds(3));
  EXPECT_EQ(wait_of(3), absl::Seconds(4));
  EXPECT_EQ(scheduler.Load(At(6)).oldest_queued_age, absl::Seconds(5));
}

TEST_F(SchedulerTest, DroppedImagesAreForgottenOrAbandoned) {
  Scheduler scheduler({});
  (void)scheduler.Submit(OpenEnded(kJob), At(0));
  scheduler.AddImages(kJob, 0, 10, {}, At(0));
  Join(scheduler, kAnna, 1, Worker(4));
  const Lease lease = scheduler.Assign(At(0)).at(0);
  ASSERT_EQ(lease.images, Images(kJob, 0, 3));
  const Effects effects = scheduler.DropImages(kJob, 2, 4);
  ASSERT_THAT(effects.abandoned, SizeIs(1));
  EXPECT_EQ(effects.abandoned[0].lease, lease.id);
  EXPECT_THAT(effects.abandoned[0].slots, ElementsAre(2, 3));
  EXPECT_EQ(scheduler.Queued(kJob), 4);
  EXPECT_EQ(scheduler.Leased(kJob), 2);
  EXPECT_EQ(scheduler.Deliver(kAnna, lease.id, 2, Outcome::kRendered, absl::ZeroDuration(), At(1)).verdict,
            Verdict::kLate);
  // They may come again; Bert gets its half of what is not finished.
  scheduler.AddImages(kJob, 2, 4, {}, At(1));
  Join(scheduler, kBert, 1, Worker(8));
  EXPECT_EQ(scheduler.Assign(At(1)).at(0).images, Images(kJob, 2, 6));
}

// A worker that comes back after its coordinator was away goes on with what it has.
TEST_F(SchedulerTest, AWorkerAdoptsWhatNobodyElseHas) {
  Scheduler scheduler({.batches_held_max = 2});
  (void)scheduler.Submit(OpenEnded(kJob), At(0));
  scheduler.AddImages(kJob, 0, 6, {}, At(0));
  Join(scheduler, kBert, 1, Worker(1));
  ASSERT_EQ(scheduler.Assign(At(0)).at(0).images, Images(kJob, 0, 0));
  scheduler.OpenSession(kAnna, Worker(2), At(0));
  const std::vector<ImageId> held = {{kJob, 4}, {kJob, 0}, {kJob, 99}, {kLaterJob, 1}, {kJob, 2}, {kJob, 4}};
  const Adoption adoption = scheduler.Adopt(kAnna, held, At(1));
  EXPECT_THAT(adoption.images, ElementsAre(ImageId{kJob, 4}, ImageId{kJob, 2}));
  EXPECT_EQ(scheduler.Queued(kJob), 3);
  EXPECT_EQ(scheduler.Leased(kJob), 3);
  // It is one of the two batches that it may hold, and none of the two that it has asked for.
  TURBOFLEET_ASSERT_OK(scheduler.Report(
      kAnna, {.batches_taken_max = 2, .leases = {adoption.lease}, .last_lease_received = adoption.lease}, At(1),
      &effects_));
  EXPECT_THAT(scheduler.Assign(At(1)), SizeIs(1));
  EXPECT_EQ(scheduler.Deliver(kAnna, adoption.lease, 0, Outcome::kRendered, absl::ZeroDuration(), At(2)).image,
            (ImageId{kJob, 4}));
  scheduler.Deliver(kAnna, adoption.lease, 1, Outcome::kRendered, absl::ZeroDuration(), At(2));
  EXPECT_THAT(scheduler.Assign(At(2)), SizeIs(1));
  EXPECT_EQ(scheduler.Adopt(kAnna, held, At(3)).lease, LeaseId{0});
  EXPECT_EQ(scheduler.Adopt(kCleo, held, At(3)).lease, LeaseId{0});
}

// ---- Classes and tenants

// Serves one image at a time and counts who gets them.
std::map<JobId, int> Serve(Scheduler& scheduler, SessionId session, int images, int64_t* taken) {
  std::map<JobId, int> served;
  for (int i = 0; i < images; ++i) {
    Effects effects;
    TURBOFLEET_EXPECT_OK(scheduler.Report(
        session, {.batches_taken_max = ++*taken, .leases = {}, .started = {}, .last_lease_received = LeaseId{0}}, At(0),
        &effects));
    const std::vector<Lease> leases = scheduler.Assign(At(0));
    EXPECT_THAT(leases, SizeIs(1));
    if (leases.empty()) break;
    ++served[leases[0].images[0].job];
    scheduler.Deliver(session, leases[0].id, 0, Outcome::kRendered, absl::ZeroDuration(), At(0));
  }
  return served;
}

JobPlacement Of(JobId id, const std::string& tenant, JobClass job_class, int32_t weight = 1) {
  JobPlacement placement = JobOf(id, 5'000);
  placement.tenant = tenant;
  placement.tenant_weight = weight;
  placement.job_class = job_class;
  return placement;
}

TEST_F(SchedulerTest, ClassesShareByWeightAndBulkHasItsFloor) {
  Scheduler scheduler({});
  (void)scheduler.Submit(Of(JobId{1}, "a", JobClass::kInteractive), At(0));
  (void)scheduler.Submit(Of(JobId{2}, "a", JobClass::kNormal), At(0));
  (void)scheduler.Submit(Of(JobId{3}, "a", JobClass::kBulk), At(0));
  int64_t taken = 0;
  Join(scheduler, kAnna, 0, Worker(1));
  std::map<JobId, int> served = Serve(scheduler, kAnna, 2'000, &taken);
  EXPECT_NEAR(served[JobId{1}], 2'000 * 0.95 * 0.8, 4);
  EXPECT_NEAR(served[JobId{2}], 2'000 * 0.95 * 0.2, 4);
  EXPECT_NEAR(served[JobId{3}], 2'000 * 0.05, 4);
  scheduler.Cancel(JobId{1});
  served = Serve(scheduler, kAnna, 1'000, &taken);
  EXPECT_NEAR(served[JobId{2}], 800, 4);
  EXPECT_NEAR(served[JobId{3}], 200, 4);
}

TEST_F(SchedulerTest, AClassThatComesLateIsLevelWithTheOthers) {
  Scheduler scheduler({});
  (void)scheduler.Submit(Of(JobId{1}, "a", JobClass::kNormal), At(0));
  Join(scheduler, kAnna, 0, Worker(1));
  int64_t taken = 0;
  Serve(scheduler, kAnna, 1'000, &taken);
  (void)scheduler.Submit(Of(JobId{2}, "a", JobClass::kBulk), At(0));
  EXPECT_NEAR(Serve(scheduler, kAnna, 100, &taken)[JobId{2}], 20, 2);
}

TEST_F(SchedulerTest, TenantsShareByWeightHoweverManyJobsTheyHave) {
  Scheduler scheduler({});
  (void)scheduler.Submit(Of(JobId{1}, "a", JobClass::kNormal), At(0));
  (void)scheduler.Submit(Of(JobId{2}, "b", JobClass::kNormal, 3), At(0));
  (void)scheduler.Submit(Of(JobId{3}, "a", JobClass::kNormal), At(0));
  int64_t taken = 0;
  Join(scheduler, kAnna, 0, Worker(1));
  const std::map<JobId, int> served = Serve(scheduler, kAnna, 400, &taken);
  EXPECT_EQ(served.at(JobId{1}), 50);
  EXPECT_EQ(served.at(JobId{3}), 50);
  EXPECT_EQ(served.at(JobId{2}), 300);
}

// A tenant that always has just one image queued is served ahead of nobody: what it was given it owes, even while it
// has no job.
TEST_F(SchedulerTest, ComingAgainAndAgainGivesATenantNoMore) {
  Scheduler scheduler({});
  (void)scheduler.Submit(Of(JobId{1}, "steady", JobClass::kNormal), At(0));
  Join(scheduler, kAnna, 0, Worker(1));
  int64_t taken = 0;
  uint64_t last = 1;
  int of_steady = 0;
  for (int i = 0; i < 300; ++i) {
    JobPlacement one = Of(JobId{++last}, "eager", JobClass::kNormal);
    one.image_count = 1;
    if (scheduler.Load(At(0)).jobs == 1) (void)scheduler.Submit(one, At(0));
    of_steady += Serve(scheduler, kAnna, 1, &taken)[JobId{1}];
  }
  EXPECT_NEAR(of_steady, 150, 2);
}

TEST_F(SchedulerTest, TheLoadIsToldByClass) {
  Scheduler scheduler({});
  (void)scheduler.Submit(Of(JobId{1}, "a", JobClass::kInteractive), At(1));
  (void)scheduler.Submit(Of(JobId{2}, "b", JobClass::kBulk), At(3));
  const SchedulerLoad load = scheduler.Load(At(4));
  EXPECT_EQ(load.classes[0].images_queued, 5'000);
  EXPECT_EQ(load.classes[0].oldest_queued_age, absl::Seconds(3));
  EXPECT_EQ(load.classes[1].images_queued, 0);
  EXPECT_EQ(load.classes[1].oldest_queued_age, absl::ZeroDuration());
  EXPECT_EQ(load.classes[2].oldest_queued_age, absl::Seconds(1));
}

}  // namespace
}  // namespace turbofleet
