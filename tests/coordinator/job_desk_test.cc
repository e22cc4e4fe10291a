// What clients do with durable jobs, and what a watch reads.
#include <utility>
#include <variant>
#include <vector>

#include "tests/coordinator/durable_fixture.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class JobDeskTest : public DurableFixture {
 protected:
  int Drafts() const {
    int drafts = 0;
    for (const auto& [id, job] : database_->Snapshot().jobs) drafts += job->draft_of.empty() ? 0 : 1;
    return drafts;
  }
  // A job whose images were committed in the order 2, 0, 3, 1.
  JobRecord Mixed(CoordinatorNode& node) {
    Worker worker = Join(node);
    const auto job = Create(node, Order(4));
    for (const int32_t slot : {2, 0, 3, 1}) {
      node.dispatcher.Deliver(worker.sink->welcome->token, worker.sink->batches[0].lease, slot, PictureOf(slot));
      node.RunStore();
    }
    return Get(node, job->record.id)->record;
  }
  absl::StatusOr<std::vector<int32_t>> Indexes(CoordinatorNode& node, const JobRecord& job, bool ordered,
                                               int64_t position) {
    const auto result = Read(node, {.job = job.id, .ordered = ordered, .position = position, .image_count = 4});
    if (!result.ok()) return result.status();
    std::vector<int32_t> indexes;
    for (const auto& image : result->images) {
      const auto* finished = std::get_if<FinishedImage>(&image.outcome);
      indexes.push_back(finished != nullptr ? finished->index : -1);
    }
    return indexes;
  }
};

TEST_F(JobDeskTest, ARequestIsMadeOnce) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto first = Create(node, Order(3, "r"));
  const auto again = Create(node, Order(3, "r"));
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->record.id, first->record.id);
  EXPECT_EQ(node.dispatcher.State().jobs_running, 1);
  EXPECT_EQ(Drafts(), 0);
  absl::Status other;
  node.desk.Begin(Order(3, "r"), [&](const absl::StatusOr<JobDesk::Draft>& draft) {
    node.desk.Submit(*draft, "other content", [&](const absl::StatusOr<JobView>& job) { other = job.status(); });
  });
  node.RunStore();
  EXPECT_THAT(other, HasReason("REQUEST_ID_REUSED"));
  EXPECT_EQ(Drafts(), 0);
}

TEST_F(JobDeskTest, PromptsComeInPieces) {
  CoordinatorNode& node = Start({.desk = {.images_per_job_max = 7}});
  Worker worker = Join(node);
  JobOrder order = Order(2);
  order.images.prompts.clear();
  JobDesk::Draft draft;
  node.desk.Begin(order, [&](absl::StatusOr<JobDesk::Draft> begun) { draft = *std::move(begun); });
  node.RunStore();
  EXPECT_THAT(Get(node, draft.id), HasReason("JOB_NOT_FOUND"));
  absl::Status status = absl::UnknownError("");
  const auto told = [&](const absl::Status& answer) { status = answer; };
  node.desk.Append(&draft, {"one", "two"}, told);
  node.RunStore();
  EXPECT_THAT(status, IsOk());
  JobDesk::Draft too_much = draft;
  node.desk.Append(&too_much, {"three", "four"}, told);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompts: make 8 images")));
  node.desk.Append(&draft, {"three"}, told);
  absl::StatusOr<JobView> job = absl::UnknownError("");
  node.desk.Submit(draft, "f", [&](absl::StatusOr<JobView> view) { job = std::move(view); });
  node.RunStore();
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->record.spec->ImageCount(), 6);
  ASSERT_THAT(worker.sink->batches, SizeIs(1));
  EXPECT_EQ(worker.sink->batches[0].images[5].prompt, "three");
}

TEST_F(JobDeskTest, NoDraftIsLeftBehind) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  JobDesk::Draft draft;
  const auto begin = [&](JobOrder order) {
    node.desk.Begin(std::move(order), [&](absl::StatusOr<JobDesk::Draft> begun) {
      if (begun.ok()) draft = *std::move(begun);
    });
    node.RunStore();
  };
  begin(Order(1));
  EXPECT_EQ(Drafts(), 1);
  node.desk.Drop(draft);
  node.RunStore();
  EXPECT_EQ(Drafts(), 0);
  // Without prompts.
  JobOrder empty = Order(1);
  empty.images.prompts.clear();
  begin(empty);
  absl::Status status;
  node.desk.Submit(draft, "f", [&](const absl::StatusOr<JobView>& job) { status = job.status(); });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompts")));
  node.RunStore();
  EXPECT_EQ(Drafts(), 0);
  // The store is away while one is dropped, or begun and nobody hears of it.
  begin(Order(1));
  node.store.next_fault = [] { return Fault::kBefore; };
  node.desk.Drop(draft);
  node.RunStore();
  node.store.next_fault = [] { return Fault::kAfter; };
  begin(Order(1));
  node.store.next_fault = nullptr;
  EXPECT_EQ(Drafts(), 1);  // It dropped the one before.
  begin(Order(1));
  EXPECT_EQ(Drafts(), 1);
  EXPECT_TRUE(database_->Snapshot().jobs.contains(draft.id));
}

TEST_F(JobDeskTest, ATenantSeesItsOwnJobsOnly) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(3));
  EXPECT_THAT(Get(node, job->record.id), IsOk());
  EXPECT_THAT(Get(node, job->record.id, "u"), HasReason("JOB_NOT_FOUND"));
  EXPECT_THAT(Get(node, std::string(32, 'f')), HasReason("JOB_NOT_FOUND"));
  absl::Status status;
  node.desk.Cancel("u", job->record.id, [&](const absl::StatusOr<JobView>& view) { status = view.status(); });
  node.RunStore();
  EXPECT_THAT(status, HasReason("JOB_NOT_FOUND"));
  node.desk.Delete("u", job->record.id, [&](const absl::Status& answer) { status = answer; });
  node.RunStore();
  EXPECT_THAT(status, HasReason("JOB_NOT_FOUND"));
  EXPECT_EQ(Get(node, job->record.id)->record.state, JobState::kRunning);
  EXPECT_THAT(Delete(node, job->record.id), HasReason("JOB_RUNNING"));
}

TEST_F(JobDeskTest, QuotasAreKeptAndGivenBack) {
  CoordinatorNode& node = Start(
      {.dispatcher = {
           .durable = {.jobs_running_max = 3, .jobs_running_per_tenant_max = 2, .images_waiting_per_tenant_max = 10}}});
  Worker worker = Join(node);
  EXPECT_THAT(Create(node, Order(11)), HasReason("QUOTA_EXCEEDED"));
  const auto first = Create(node, Order(6, "1"));
  EXPECT_THAT(Create(node, Order(5, "2")),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("images_waiting_per_tenant_max")));
  const auto second = Create(node, Order(4, "3"));
  EXPECT_THAT(second, IsOk());
  EXPECT_THAT(Create(node, Order(1, "4")), HasReason("QUOTA_EXCEEDED"));
  const ClusterState busy = node.dispatcher.State();
  EXPECT_EQ(busy.images_waiting + busy.load.images_leased, 10);
  EXPECT_EQ(RunToEnd(node, worker, first->record.id)->record.state, JobState::kCompleted);
  EXPECT_THAT(Cancel(node, second->record.id), IsOk());
  EXPECT_EQ(node.dispatcher.State().images_waiting, 0);
  EXPECT_THAT(Create(node, Order(10, "5")), IsOk());
  EXPECT_EQ(Drafts(), 0);
}

TEST_F(JobDeskTest, AJobIsForgottenWhenItsTimeHasCome) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  JobOrder order = Order(3);
  order.retention = absl::Seconds(30);
  const auto job = Create(node, order);
  auto follower = std::make_shared<FakeFollower>();
  node.dispatcher.Follow(job->record.id, follower);
  EXPECT_THAT(RunToEnd(node, worker, job->record.id), IsOk());
  EXPECT_GT(disk_.bytes(), 0);
  for (int i = 0; i < 3; ++i) Step(node, absl::Seconds(9));
  EXPECT_THAT(Get(node, job->record.id), IsOk());
  for (int i = 0; i < 3; ++i) Step(node, absl::Seconds(2));
  EXPECT_THAT(Get(node, job->record.id), HasReason("JOB_NOT_FOUND"));
  EXPECT_EQ(disk_.bytes(), 0);
  EXPECT_EQ(node.dispatcher.State().bytes_retained, 0);
  ASSERT_TRUE(follower->ended.has_value());
}

TEST_F(JobDeskTest, AWatchGoesOnFromEveryPosition) {
  CoordinatorNode& node = Start();
  const JobRecord job = Mixed(node);
  const std::vector<int32_t> committed = {2, 0, 3, 1};
  for (int position = 0; position <= 4; ++position) {
    EXPECT_THAT(Indexes(node, job, false, position),
                IsOkAndHolds(std::vector<int32_t>(committed.begin() + position, committed.end())));
    std::vector<int32_t> rest;
    for (int index = position; index < 4; ++index) rest.push_back(index);
    EXPECT_THAT(Indexes(node, job, true, position), IsOkAndHolds(rest));
  }
}

TEST_F(JobDeskTest, AnOrderedWatchStopsAtAGap) {
  CoordinatorNode& node = Start();
  Worker worker = Join(node);
  const auto job = Create(node, Order(4));
  for (const int32_t slot : {0, 2}) {
    node.dispatcher.Deliver(worker.sink->welcome->token, worker.sink->batches[0].lease, slot, PictureOf(slot));
  }
  node.RunStore();
  EXPECT_THAT(Indexes(node, job->record, true, 0), IsOkAndHolds(std::vector<int32_t>{0}));
  EXPECT_THAT(Indexes(node, job->record, true, 1), IsOkAndHolds(IsEmpty()));
}

TEST_F(JobDeskTest, WhatWasReleasedIsNamedAndNotSilentlyLeftOut) {
  CoordinatorNode& node = Start({.pack_bytes_max = 1});
  const JobRecord job = Mixed(node);
  ASSERT_THAT(Release(node, job.id, {.ordered = false, .position = 2}), IsOk());
  EXPECT_EQ(disk_.packs.size(), 2u);
  EXPECT_THAT(Indexes(node, job, false, 1), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(Indexes(node, job, false, 2), IsOkAndHolds(std::vector<int32_t>{3, 1}));
  EXPECT_THAT(Indexes(node, job, true, 0), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(Indexes(node, job, true, 1), IsOkAndHolds(std::vector<int32_t>{1}));
  EXPECT_THAT(Release(node, job.id, {.ordered = false, .position = 5}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("resume_token")));
  ASSERT_THAT(Release(node, job.id, {.ordered = true, .position = 4}), IsOk());
  EXPECT_EQ(disk_.packs.size(), 0u);
  EXPECT_EQ(node.dispatcher.State().bytes_retained, 0);
}

TEST_F(JobDeskTest, AnOrderedReleaseKeepsWhatComesLater) {
  CoordinatorNode& node = Start({.pack_bytes_max = 1});
  const JobRecord job = Mixed(node);
  // Image 2 was committed first and is not read yet, so nothing before it in the log may go.
  ASSERT_THAT(Release(node, job.id, {.ordered = true, .position = 2}), IsOk());
  EXPECT_EQ(disk_.packs.size(), 4u);
  EXPECT_THAT(Indexes(node, job, true, 2), IsOkAndHolds(std::vector<int32_t>{2, 3}));
  ASSERT_THAT(Release(node, job.id, {.ordered = true, .position = 3}), IsOk());
  EXPECT_EQ(disk_.packs.size(), 2u);
  EXPECT_THAT(Indexes(node, job, true, 3), IsOkAndHolds(std::vector<int32_t>{3}));
}

TEST_F(JobDeskTest, APieceOfAWatchIsBounded) {
  CoordinatorNode& node = Start();
  const JobRecord job = Mixed(node);
  const auto piece = Read(node, {.job = job.id, .image_count = 4, .bytes_max = 15});
  ASSERT_THAT(piece, IsOk());
  EXPECT_THAT(piece->images, SizeIs(2));
  EXPECT_EQ(piece->position, 2);
  const auto small = Read(node, {.job = job.id, .image_count = 4, .images_max = 3});
  EXPECT_THAT(small->images, SizeIs(3));
}

TEST_F(JobDeskTest, APictureThatIsLostIsAFailureAndADiskThatIsAwayIsNot) {
  CoordinatorNode& node = Start({.pack_bytes_max = 1});
  const JobRecord job = Mixed(node);
  disk_.packs.erase(disk_.packs.begin());
  const auto read = Read(node, {.job = job.id, .image_count = 4});
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(std::get<UnfinishedImage>(read->images[0].outcome).error.reason, "PICTURE_LOST");
  EXPECT_EQ(std::get<FinishedImage>(read->images[1].outcome).index, 0);
  disk_.unreadable = true;
  EXPECT_THAT(Read(node, {.job = job.id, .image_count = 4}), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Read(node, {.job = job.id, .with_content = false, .image_count = 4}), IsOk());
}

}  // namespace
}  // namespace turbofleet
