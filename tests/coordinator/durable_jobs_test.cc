// Durable jobs from their creation to their end, beside a store that fails, workers that are slow and clients that
// change their minds.
#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/coordinator/durable_fixture.h"

namespace turbofleet {
namespace {

using ::testing::Optional;
using ::testing::SizeIs;

std::vector<int32_t> UpTo(int32_t end) {
  std::vector<int32_t> indexes(end);
  std::iota(indexes.begin(), indexes.end(), 0);
  return indexes;
}

std::vector<int32_t> Sorted(std::vector<int32_t> indexes) {
  std::sort(indexes.begin(), indexes.end());
  return indexes;
}

class DurableJobsTest : public DurableFixture {};

TEST_F(DurableJobsTest, AJobOfSeveralShardsIsMadeAndRead) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(2'500));
  ASSERT_THAT(job, IsOk());
  const auto end = RunToEnd(node, worker, job->record.id);
  ASSERT_THAT(end, IsOk());
  EXPECT_EQ(end->record.state, JobState::kCompleted);
  EXPECT_EQ(end->record.images_completed, 2'500);
  EXPECT_EQ(observer_.finished, 2'500);
  EXPECT_EQ(Sorted(ReadAll(node, end->record, false, 100)), UpTo(2'500));
  EXPECT_EQ(ReadAll(node, end->record, true, 100), UpTo(2'500));
  const ClusterState state = node.dispatcher.State();
  EXPECT_EQ(state.jobs_running, 0);
  EXPECT_EQ(state.images_waiting, 0);
  EXPECT_EQ(state.bytes_uncommitted, 0);
  EXPECT_EQ(state.bytes_retained, end->record.bytes_retained);
  EXPECT_EQ(state.load.jobs, 0);
}

TEST_F(DurableJobsTest, NothingIsToldBeforeItIsDurable) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(4));
  auto follower = std::make_shared<FakeFollower>();
  node.dispatcher.Follow(job->record.id, follower);
  ASSERT_EQ(Deliver(node, worker), 4);
  EXPECT_FALSE(follower->last.has_value());
  EXPECT_EQ(observer_.finished, 0);
  node.RunStore();
  ASSERT_TRUE(follower->last.has_value());
  EXPECT_EQ(follower->last->state, JobState::kCompleted);
  EXPECT_EQ(observer_.finished, 4);
}

TEST_F(DurableJobsTest, ACommitThatCameThroughUnheardEndsItsJobAllTheSame) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(4));
  auto follower = std::make_shared<FakeFollower>();
  node.dispatcher.Follow(job->record.id, follower);
  ASSERT_EQ(Deliver(node, worker), 4);
  node.store.next_fault = [] { return Fault::kAfter; };
  node.RunStore();
  node.store.next_fault = nullptr;
  EXPECT_EQ(node.dispatcher.State().jobs_running, 1);
  for (int i = 0; i < 20; ++i) Step(node);
  EXPECT_EQ(node.dispatcher.State().jobs_running, 0);
  ASSERT_TRUE(follower->last.has_value());
  EXPECT_EQ(follower->last->state, JobState::kCompleted);
  EXPECT_EQ(follower->last->images_completed, 4);
  EXPECT_EQ(node.dispatcher.State().bytes_uncommitted, 0);
  EXPECT_EQ(node.dispatcher.State().bytes_retained, follower->last->bytes_retained);
}

TEST_F(DurableJobsTest, ACommitThatFailedIsRepeated) {
  for (const Fault fault : {Fault::kBefore, Fault::kAfter}) {
    CoordinatorNode& node = Start();
    Worker worker = Join(node);
    const auto job = Create(node, Order(12));
    ASSERT_GT(Deliver(node, worker, 8), 0);
    node.store.next_fault = [fault] { return fault; };
    for (int i = 0; i < 10; ++i) Step(node);
    EXPECT_GT(node.dispatcher.State().bytes_uncommitted, 0);
    EXPECT_THAT(node.dispatcher.CheckQuota("t", 1), HasReason("STORE_UNAVAILABLE"));
    node.store.next_fault = nullptr;
    const auto end = RunToEnd(node, worker, job->record.id);
    ASSERT_THAT(end, IsOk());
    EXPECT_EQ(end->record.state, JobState::kCompleted);
    EXPECT_EQ(Sorted(ReadAll(node, end->record, false)), UpTo(12));
    EXPECT_THAT(node.dispatcher.CheckQuota("t", 1), IsOk());
  }
}

TEST_F(DurableJobsTest, AStoreThatIsBrokenIsNotTakenForOneThatAnswered) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(2));
  auto follower = std::make_shared<FakeFollower>();
  node.dispatcher.Follow(job->record.id, follower);
  ASSERT_EQ(Deliver(node, worker), 2);
  node.store.broken = true;
  node.RunStore();
  EXPECT_FALSE(follower->last.has_value());
  node.store.broken = false;
  for (int i = 0; i < 10; ++i) Step(node);
  ASSERT_TRUE(follower->last.has_value());
  EXPECT_EQ(follower->last->images_completed, 2);
}

TEST_F(DurableJobsTest, WorkersGoOnWhileTheStoreIsAwayUpToABound) {
  CoordinatorNode& node = Start({.dispatcher = {.durable = {.bytes_uncommitted_max = 500}}});
  Worker worker = Join(node);
  const auto job = Create(node, Order(1'000));
  node.store.next_fault = [] { return Fault::kBefore; };
  int delivered = 0;
  for (int i = 0; i < 100; ++i) {
    Step(node);
    delivered += Deliver(node, worker);
  }
  const int64_t kept = node.dispatcher.State().bytes_uncommitted;
  EXPECT_GE(kept, 500);
  EXPECT_LE(kept, 500 + 4 * 8 * 14);
  EXPECT_EQ(kept, delivered * 14);
  node.store.next_fault = nullptr;
  const auto end = RunToEnd(node, worker, job->record.id);
  EXPECT_EQ(end->record.images_completed, 1'000);
  EXPECT_EQ(Sorted(ReadAll(node, end->record, false, 100)), UpTo(1'000));
}

TEST_F(DurableJobsTest, AClaimThatFailedIsNotWorkedOn) {
  for (const Fault fault : {Fault::kBefore, Fault::kAfter}) {
    CoordinatorNode& node = Start();
    Worker worker = Join(node);
    int transaction = 0;
    // The job is begun and submitted, then the first claim fails.
    node.store.next_fault = [&] { return ++transaction == 3 ? fault : Fault::kNone; };
    const auto job = Create(node, Order(1'500));
    ASSERT_THAT(job, IsOk());
    EXPECT_EQ(transaction, 3);
    EXPECT_THAT(worker.sink->batches, SizeIs(0));
    node.store.next_fault = nullptr;
    const auto end = RunToEnd(node, worker, job->record.id);
    EXPECT_EQ(end->record.state, JobState::kCompleted);
    EXPECT_EQ(ReadAll(node, end->record, true, 100), UpTo(1'500));
    EXPECT_EQ(node.dispatcher.State().load.images_leased, 0);
    node.dispatcher.EndSession(worker.id, absl::OkStatus());
  }
}

TEST_F(DurableJobsTest, ACancelledJobEndsWhereverItIs) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(100));
  auto follower = std::make_shared<FakeFollower>();
  node.dispatcher.Follow(job->record.id, follower);
  // The first is on its way into the store when the job is ended, and the others wait behind it.
  ASSERT_EQ(Deliver(node, worker, 8), 8);
  const auto cancelled = Cancel(node, job->record.id);
  ASSERT_THAT(cancelled, IsOk());
  EXPECT_EQ(cancelled->record.state, JobState::kCancelled);
  EXPECT_EQ(cancelled->record.images_completed, 1);
  EXPECT_FALSE(worker.sink->abandoned.empty());
  EXPECT_EQ(follower->last->state, JobState::kCancelled);
  EXPECT_EQ(node.dispatcher.State().jobs_running, 0);
  EXPECT_EQ(node.dispatcher.State().load.images_leased, 0);
  EXPECT_EQ(observer_.cancelled, 99);
  Deliver(node, worker);
  Step(node);
  EXPECT_EQ(Get(node, job->record.id)->record.images_completed, 1);
  EXPECT_EQ(node.dispatcher.State().bytes_uncommitted, 0);
}

TEST_F(DurableJobsTest, ACancelThatNobodyHeardOfIsNoticed) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(100));
  node.store.next_fault = [] { return Fault::kAfter; };
  EXPECT_THAT(Cancel(node, job->record.id), HasReason("STORE_UNAVAILABLE"));
  node.store.next_fault = nullptr;
  EXPECT_EQ(node.dispatcher.State().jobs_running, 1);
  for (int i = 0; i < 10; ++i) Step(node);
  EXPECT_EQ(node.dispatcher.State().jobs_running, 0);
}

TEST_F(DurableJobsTest, ASubmissionThatNobodyHeardOfRuns) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  int transaction = 0;
  node.store.next_fault = [&] { return ++transaction == 2 ? Fault::kAfter : Fault::kNone; };
  EXPECT_THAT(Create(node, Order(10, "r")), HasReason("STORE_UNAVAILABLE"));
  node.store.next_fault = nullptr;
  for (int i = 0; i < 10; ++i) Step(node);
  EXPECT_EQ(node.dispatcher.State().jobs_running, 1);
  const auto again = Create(node, Order(10, "r"));
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(node.dispatcher.State().jobs_running, 1);
  EXPECT_EQ(RunToEnd(node, worker, again->record.id)->record.images_completed, 10);
}

TEST_F(DurableJobsTest, ResultsOfADeletedJobLeaveNothingBehind) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(20));
  ASSERT_GT(Deliver(node, worker, 8), 0);
  node.RunStore();
  ASSERT_GT(disk_.bytes(), 0);
  // More are made while the store is away, and when it is back the job is cancelled and deleted before they come in.
  node.store.next_fault = [] { return Fault::kBefore; };
  ASSERT_GT(Deliver(node, worker), 0);
  node.RunStore();
  node.store.next_fault = nullptr;
  EXPECT_THAT(Cancel(node, job->record.id), IsOk());
  EXPECT_THAT(Delete(node, job->record.id), IsOk());
  for (int i = 0; i < 10; ++i) Step(node);
  EXPECT_EQ(disk_.bytes(), 0);
  const ClusterState state = node.dispatcher.State();
  EXPECT_EQ(state.bytes_retained, 0);
  EXPECT_EQ(state.bytes_uncommitted, 0);
  EXPECT_THAT(node.dispatcher.CheckQuota("t", 1), IsOk());  // The stall is over.
}

TEST_F(DurableJobsTest, ACommitBehindADeletionClearsTheSpoolAgain) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(20));
  // Posted in this order and run as three transactions.
  node.desk.Cancel("t", job->record.id, [](const absl::StatusOr<JobView>&) {});
  node.desk.Delete("t", job->record.id, [&](const absl::Status&) {});
  ASSERT_GT(Deliver(node, worker), 0);
  node.RunStore();
  for (int i = 0; i < 10; ++i) Step(node);
  EXPECT_EQ(disk_.bytes(), 0);
}

TEST_F(DurableJobsTest, AnExpiredJobThatEndsMeanwhileIsNoTrouble) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  JobOrder order = Order(20);
  order.timeout = absl::Seconds(10);
  const auto job = Create(node, order);
  auto follower = std::make_shared<FakeFollower>();
  node.dispatcher.Follow(job->record.id, follower);
  // It cannot be ended when its time has come, and is cancelled before the next try.
  node.store.next_fault = [] { return Fault::kBefore; };
  Step(node, absl::Seconds(11));
  node.store.next_fault = nullptr;
  EXPECT_THAT(Cancel(node, job->record.id), IsOk());
  for (int i = 0; i < 30; ++i) Step(node);
  EXPECT_EQ(follower->last->state, JobState::kCancelled);

  Join(node);  // The first has been silent for too long.
  JobOrder second = Order(20, "second");
  second.timeout = absl::Seconds(10);
  const auto other = Create(node, second);
  Step(node, absl::Seconds(11));
  EXPECT_EQ(Get(node, other->record.id)->record.state, JobState::kExpired);
  EXPECT_EQ(node.dispatcher.State().jobs_running, 0);
}

TEST_F(DurableJobsTest, AFullJobWaitsForItsReleaseAndThenGoesOn) {
  CoordinatorNode& node =
      Start({.dispatcher = {.durable = {.bytes_retained_per_job_max = 400}}, .pack_bytes_max = 100});
  Worker worker = Join(node);
  const auto job = Create(node, Order(200));
  for (int i = 0; i < 50; ++i) {
    Step(node);
    Deliver(node, worker);
  }
  auto view = Get(node, job->record.id);
  EXPECT_TRUE(view->waits_for_release);
  EXPECT_GE(view->record.bytes_retained, 400);
  // What the worker had, and what it was given until that was committed.
  EXPECT_LE(view->record.bytes_retained, 400 + 2 * 4 * 8 * 14);
  // Another job is not held up by it.
  const auto other = Create(node, Order(20, "other"));
  EXPECT_EQ(RunToEnd(node, worker, other->record.id)->record.state, JobState::kCompleted);

  std::set<int32_t> seen;
  int64_t position = 0;
  for (int i = 0; i < 500 && view->record.state == JobState::kRunning; ++i) {
    const auto result = Read(node, {.job = job->record.id, .position = position, .image_count = 200});
    ASSERT_THAT(result, IsOk());
    for (const auto& image : result->images) {
      EXPECT_TRUE(seen.insert(std::get<FinishedImage>(image.outcome).index).second);
    }
    position = result->position;
    ASSERT_THAT(Release(node, job->record.id, {.ordered = false, .position = position}), IsOk());
    Step(node);
    Deliver(node, worker);
    node.RunStore();
    view = Get(node, job->record.id);
  }
  EXPECT_EQ(view->record.state, JobState::kCompleted);
  EXPECT_FALSE(view->waits_for_release);
  EXPECT_EQ(node.dispatcher.State().bytes_retained,
            view->record.bytes_retained + Get(node, other->record.id)->record.bytes_retained);
}

TEST_F(DurableJobsTest, AFullTenantStopsAllItsJobsButNotThoseOfOthers) {
  CoordinatorNode& node = Start({.dispatcher = {.durable = {.bytes_retained_per_tenant_max = 400}}});
  Worker worker = Join(node);
  const auto first = Create(node, Order(500, "1"));
  const auto second = Create(node, Order(500, "2"));
  for (int i = 0; i < 100; ++i) {
    Step(node);
    Deliver(node, worker);
  }
  EXPECT_TRUE(Get(node, first->record.id)->waits_for_release);
  EXPECT_TRUE(Get(node, second->record.id)->waits_for_release);
  EXPECT_LE(node.dispatcher.State().bytes_retained, 400 + 3 * 4 * 8 * 14);
  EXPECT_THAT(Create(node, Order(1, "3")), HasReason("QUOTA_EXCEEDED"));
  JobOrder order = Order(10);
  order.tenant = "u";
  const auto other = Create(node, order);
  ASSERT_THAT(other, IsOk());
  for (int i = 0; i < 10; ++i) {
    Step(node);
    Deliver(node, worker);
  }
  EXPECT_EQ(Get(node, other->record.id, "u")->record.state, JobState::kCompleted);
  // When one job goes and the other's pictures are read, that one goes on.
  EXPECT_THAT(Cancel(node, first->record.id), IsOk());
  EXPECT_THAT(Delete(node, first->record.id), IsOk());
  const int64_t read = Get(node, second->record.id)->record.LastSequence();
  EXPECT_THAT(Release(node, second->record.id, {.ordered = false, .position = read}), IsOk());
  EXPECT_FALSE(Get(node, second->record.id)->waits_for_release);
}

TEST_F(DurableJobsTest, JobsOfAModelThatNobodyServesHoldUpNoOthers) {
  CoordinatorNode& node = Start({.dispatcher = {.durable = {.jobs_open_per_tenant_max = 2}}});
  Worker gone = Join(node, "berta", "b");
  for (int i = 0; i < 3; ++i) {
    JobOrder order = Order(10, absl::StrCat("b", i));
    order.images.model = "b";
    ASSERT_THAT(Create(node, order), IsOk());
  }
  node.dispatcher.EndSession(gone.id, absl::OkStatus());
  Worker worker = Join(node);
  const auto job = Create(node, Order(10, "a"));
  EXPECT_EQ(RunToEnd(node, worker, job->record.id)->record.state, JobState::kCompleted);
}

TEST_F(DurableJobsTest, ManySmallJobsAreAllOpenedInTime) {
  CoordinatorNode& node = Start({.dispatcher = {.durable = {.jobs_open_per_tenant_max = 2}}});
  Worker worker = Join(node);
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(Create(node, Order(3, absl::StrCat(i)))->record.id);
  for (const std::string& id : ids) EXPECT_EQ(RunToEnd(node, worker, id)->record.images_completed, 3);
}

TEST_F(DurableJobsTest, AFullDiskRefusesNewJobsAndLosesNothing) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(50));
  Deliver(node, worker);
  disk_.full = true;
  for (int i = 0; i < 20; ++i) {
    Step(node);
    Deliver(node, worker);
  }
  const auto refused = Create(node, Order(5, "x"));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted));
  disk_.full = false;
  const auto end = RunToEnd(node, worker, job->record.id);
  EXPECT_EQ(end->record.images_completed, 50);
  EXPECT_EQ(Sorted(ReadAll(node, end->record, false)), UpTo(50));
}

TEST_F(DurableJobsTest, ASyncThatFailsKeepsResultsBack) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(5));
  disk_.sync_fails = true;
  ASSERT_EQ(Deliver(node, worker), 5);
  node.RunStore();
  EXPECT_EQ(observer_.finished, 0);
  disk_.sync_fails = false;
  EXPECT_EQ(RunToEnd(node, worker, job->record.id)->record.images_completed, 5);
}

TEST_F(DurableJobsTest, ANewLifeGoesOnWhereTheOldOneStopped) {
  CoordinatorNode& first = Start({.life = "1"});
  Worker worker = Join(first);
  const auto job = Create(first, Order(1'500));
  Deliver(first, worker, 100);
  first.RunStore();
  Deliver(first, worker, 100);  // These are lost.
  CoordinatorNode& second = Start({.life = "2"});
  Worker other = Join(second);
  // The old one is fenced, whatever it still does.
  first.RunStore();
  EXPECT_TRUE(first.fenced);
  const auto end = RunToEnd(second, other, job->record.id);
  EXPECT_EQ(end->record.state, JobState::kCompleted);
  EXPECT_EQ(ReadAll(second, end->record, true, 100), UpTo(1'500));
  EXPECT_FALSE(second.fenced);
}

TEST_F(DurableJobsTest, ADrainFinishesWhatWorkersHaveAndTakesNothingNew) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(3'000));
  node.dispatcher.BeginDrain();
  EXPECT_FALSE(node.dispatcher.AwaitIdle(absl::ZeroDuration()));
  int delivered = 0;
  for (int i = 0; i < 10; ++i) {
    delivered += Deliver(node, worker);
    Step(node);
  }
  EXPECT_TRUE(node.dispatcher.AwaitIdle(absl::ZeroDuration()));
  EXPECT_GT(delivered, 0);
  EXPECT_LE(delivered, 4 * 8);
  EXPECT_EQ(Get(node, job->record.id)->record.images_completed, delivered);
  EXPECT_THAT(Create(node, Order(1)), HasReason("SHUTTING_DOWN"));
}

// ---- Several coordinators

class SharedJobsTest : public DurableFixture {
 protected:
  CoordinatorNode& StartShared(const std::string& name, const std::string& life) {
    return Start({.name = name, .life = life, .shared = true});
  }
  void StepBoth(CoordinatorNode& a, CoordinatorNode& b) {
    clock_.Advance(absl::Milliseconds(100));
    for (CoordinatorNode* node : {&a, &b}) {
      node->dispatcher.Tick();
      node->RunStore();
    }
  }
};

TEST_F(SharedJobsTest, BothWorkOnOneJobAndBothTellOfIt) {
  CoordinatorNode& a = StartShared("a", "a1");
  CoordinatorNode& b = StartShared("b", "b1");
  Worker of_a = Join(a), of_b = Join(b);
  const auto job = Create(a, Order(8'000));
  auto follower = std::make_shared<FakeFollower>();
  b.dispatcher.Follow(job->record.id, follower);
  int by_b = 0;
  for (int i = 0; i < 600 && a.dispatcher.State().jobs_running + b.dispatcher.State().jobs_running > 0; ++i) {
    StepBoth(a, b);
    Deliver(a, of_a);
    by_b += Deliver(b, of_b);
  }
  EXPECT_GT(by_b, 1'000);
  ASSERT_TRUE(follower->last.has_value());
  EXPECT_EQ(follower->last->state, JobState::kCompleted);
  EXPECT_EQ(ReadAll(b, *follower->last, true, 250), UpTo(8'000));
  for (int i = 0; i < 10; ++i) StepBoth(a, b);
  EXPECT_EQ(a.dispatcher.State().bytes_retained, follower->last->bytes_retained);
  EXPECT_EQ(b.dispatcher.State().bytes_retained, follower->last->bytes_retained);
}

TEST_F(SharedJobsTest, AnIdleCoordinatorThatWasReplacedNotices) {
  CoordinatorNode& a = StartShared("a", "a1");
  StartShared("a", "a2");
  for (int i = 0; i < 10; ++i) Step(a);
  EXPECT_TRUE(a.fenced);
}

TEST_F(SharedJobsTest, APausedCoordinatorIsFencedAndItsWorkTakenOver) {
  CoordinatorNode& a = StartShared("a", "a1");
  CoordinatorNode& b = StartShared("b", "b1");
  Worker of_a = Join(a), of_b = Join(b);
  const auto job = Create(a, Order(1'000));
  Deliver(a, of_a, 50);
  a.RunStore();
  Deliver(a, of_a, 50);  // Not committed when it stops.
  for (int i = 0; i < 80; ++i) {
    Step(b);
    Deliver(b, of_b);
  }
  b.RunStore();
  const int64_t before = Get(b, job->record.id)->record.images_completed;
  EXPECT_GT(before, 100);
  a.RunStore();
  Step(a);
  EXPECT_TRUE(a.fenced);
  EXPECT_EQ(Get(b, job->record.id)->record.images_completed, before);
  const auto end = RunToEnd(b, of_b, job->record.id);
  EXPECT_EQ(ReadAll(b, end->record, true, 100), UpTo(1'000));
}

TEST_F(SharedJobsTest, AJobThatAnotherDeletesEndsHere) {
  CoordinatorNode& a = StartShared("a", "a1");
  CoordinatorNode& b = StartShared("b", "b1");
  Worker of_a = Join(a), of_b = Join(b);
  const auto job = Create(a, Order(1'000));
  for (int i = 0; i < 5; ++i) StepBoth(a, b);
  auto follower = std::make_shared<FakeFollower>();
  b.dispatcher.Follow(job->record.id, follower);
  EXPECT_EQ(b.dispatcher.State().jobs_running, 1);
  EXPECT_THAT(Cancel(a, job->record.id), IsOk());
  EXPECT_THAT(Delete(a, job->record.id), IsOk());
  for (int i = 0; i < 5; ++i) StepBoth(a, b);
  EXPECT_EQ(b.dispatcher.State().jobs_running, 0);
  EXPECT_THAT(follower->ended, Optional(HasReason("JOB_NOT_FOUND")));
}

TEST_F(SharedJobsTest, WhoDrainsKeepsHisLease) {
  CoordinatorNode& a = StartShared("a", "a1");
  CoordinatorNode& b = StartShared("b", "b1");
  Worker of_a = Join(a);
  const auto job = Create(a, Order(1'000));
  a.dispatcher.BeginDrain();
  for (int i = 0; i < 200; ++i) {  // Longer than a lease.
    StepBoth(a, b);
    Deliver(a, of_a, 0);
  }
  EXPECT_FALSE(a.fenced);
  const int delivered = Deliver(a, of_a);
  EXPECT_GT(delivered, 0);
  a.RunStore();
  EXPECT_EQ(Get(a, job->record.id)->record.images_completed, delivered);
}

TEST_F(SharedJobsTest, ShardsGoToCoordinatorsThatHaveWorkers) {
  CoordinatorNode& a = StartShared("a", "a1");
  CoordinatorNode& b = StartShared("b", "b1");
  Worker of_a = Join(a);
  const auto job = Create(a, Order(1'000));
  Deliver(a, of_a, 50);
  a.RunStore();
  a.dispatcher.EndSession(of_a.id, absl::OkStatus());
  Worker of_b = Join(b);
  for (int i = 0; i < 200; ++i) {
    StepBoth(a, b);
    Deliver(b, of_b);
  }
  const auto end = Get(b, job->record.id);
  EXPECT_EQ(end->record.state, JobState::kCompleted);
  EXPECT_EQ(ReadAll(b, end->record, true, 100), UpTo(1'000));
}

TEST_F(SharedJobsTest, UsageIsNotForgottenWhenTheStoreIsAway) {
  CoordinatorNode& a = StartShared("a", "a1");
  Worker worker = Join(a);
  const auto job = Create(a, Order(10));
  const auto end = RunToEnd(a, worker, job->record.id);
  a.store.next_fault = [] { return Fault::kBefore; };
  for (int i = 0; i < 10; ++i) Step(a);
  EXPECT_EQ(a.dispatcher.State().bytes_retained, end->record.bytes_retained);
}

}  // namespace
}  // namespace turbofleet
