// Drafts, prompts, start pictures, submitting; and looking at jobs.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

std::vector<std::string> IdsOf(const absl::StatusOr<std::vector<JobRecord>>& records) {
  TURBOFLEET_EXPECT_OK(records);
  std::vector<std::string> ids;
  if (records.ok()) {
    for (const JobRecord& record : *records) ids.push_back(record.id);
  }
  return ids;
}

TEST_P(JobStoreTest, DraftIsNobodysToSee) {
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1})));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(1), MakePrompts(2)));

  EXPECT_THAT(store().Find(SampleId(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().Claim(SampleId(1), 1), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().ReadPrompts(SampleId(1), 0, 1), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().ReadResults(SampleId(1), 0, 1), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().ReadShardResults(SampleId(1), 0), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().End(SampleId(1), JobState::kCancelled, At(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().ReleaseResults(SampleId(1), 0), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().SequenceBeforeIndex(SampleId(1), 0), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().Delete(SampleId(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(IdsOf(store().List({}, 10)), IsEmpty());
  EXPECT_THAT(IdsOf(store().ListRunning("", 10)), IsEmpty());
  EXPECT_THAT(store().Usage(), IsOkAndHolds(IsEmpty()));
}

TEST_P(JobStoreTest, SubmittedJobComesBackWithEveryField) {
  const JobRecord draft = MakeRecord({.request_id = "request",
                                      .seeds_per_prompt = 3,
                                      .labels = {{"team", "red"}, {"empty", ""}},
                                      .deadline = At(3600) + absl::Nanoseconds(1)});
  TURBOFLEET_ASSERT_OK(store().BeginDraft(draft));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(draft.id, MakePrompts(2)));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(draft.id, MakePrompts(1, "more")));
  const absl::StatusOr<JobRecord> submitted = store().Submit(draft.id, "fingerprint");
  TURBOFLEET_ASSERT_OK(submitted);

  JobSpec spec = *draft.spec;
  spec.prompt_count = 3;
  EXPECT_EQ(*submitted->spec, spec);
  EXPECT_EQ(submitted->id, draft.id);
  EXPECT_EQ(submitted->request_id, "request");
  EXPECT_EQ(submitted->state, JobState::kRunning);
  EXPECT_EQ(submitted->create_time, draft.create_time);
  EXPECT_EQ(submitted->deadline, draft.deadline);
  EXPECT_EQ(submitted->end_time, absl::InfiniteFuture());
  EXPECT_EQ(submitted->delete_time, absl::InfiniteFuture());
  EXPECT_EQ(submitted->LastSequence(), 0);

  Restart();
  const absl::StatusOr<JobRecord> found = store().Find(draft.id);
  TURBOFLEET_ASSERT_OK(found);
  EXPECT_EQ(*found->spec, spec);
  EXPECT_EQ(ToText(*found), ToText(*submitted));
}

TEST_P(JobStoreTest, TakenIdIsRefused) {
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1})));
  EXPECT_THAT(store().BeginDraft(MakeRecord({.number = 1})), StatusIs(absl::StatusCode::kAlreadyExists));
  SubmitSample(store(), {.number = 2});
  EXPECT_THAT(store().BeginDraft(MakeRecord({.number = 2})), StatusIs(absl::StatusCode::kAlreadyExists));
  TURBOFLEET_EXPECT_OK(store().Find(SampleId(2)));
}

TEST_P(JobStoreTest, WithoutDraftThereIsNothingToAddToOrSubmit) {
  SubmitSample(store(), {.number = 1});
  for (const int number : {1, 2}) {
    EXPECT_THAT(store().AppendPrompts(SampleId(number), MakePrompts(1)), StatusIs(absl::StatusCode::kNotFound));
    EXPECT_THAT(store().Submit(SampleId(number), "fingerprint"), StatusIs(absl::StatusCode::kNotFound));
    TURBOFLEET_EXPECT_OK(store().DropDraft(SampleId(number)));
  }
  EXPECT_EQ(store().Find(SampleId(1)).value().spec->prompt_count, 1);
}

TEST_P(JobStoreTest, DraftWithoutImagesOrWithTooManyIsNotSubmitted) {
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1})));
  EXPECT_THAT(store().Submit(SampleId(1), ""), StatusIs(absl::StatusCode::kFailedPrecondition));
  JobRecord large = MakeRecord({.number = 2});
  JobSpec spec = *large.spec;
  spec.seeds.clear();
  spec.seeds_per_prompt = 1 << 30;
  large.spec = std::make_shared<const JobSpec>(spec);
  TURBOFLEET_ASSERT_OK(store().BeginDraft(large));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(2), MakePrompts(2)));
  EXPECT_THAT(store().Submit(SampleId(2), ""), StatusIs(absl::StatusCode::kFailedPrecondition));
  // They are drafts as before.
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(1), MakePrompts(1)));
  TURBOFLEET_EXPECT_OK(store().Submit(SampleId(1), ""));
}

TEST_P(JobStoreTest, DroppedDraftIsGone) {
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1})));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(1), MakePrompts(2)));
  TURBOFLEET_EXPECT_OK(store().DropDraft(SampleId(1)));
  EXPECT_THAT(store().Submit(SampleId(1), ""), StatusIs(absl::StatusCode::kNotFound));
  // Its prompts too: the id starts afresh.
  const JobRecord again = SubmitSample(store(), {.number = 1}, 1);
  EXPECT_EQ(again.spec->prompt_count, 1);
}

TEST_P(JobStoreTest, DraftsOfALifeThatEndedAreGone) {
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1})));
  Restart();
  EXPECT_THAT(store().Submit(SampleId(1), ""), StatusIs(absl::StatusCode::kNotFound));
  TURBOFLEET_EXPECT_OK(store().BeginDraft(MakeRecord({.number = 1})));
}

TEST_P(JobStoreTest, SameRequestReturnsTheJobThatIsThere) {
  const JobRecord first = SubmitSample(store(), {.number = 1, .request_id = "r"}, 2);
  const JobRecord second = SubmitSample(store(), {.number = 2, .request_id = "r"}, 2);
  EXPECT_EQ(ToText(second), ToText(first));
  EXPECT_THAT(IdsOf(store().List({}, 10)), ElementsAre(SampleId(1)));
  // The draft is dropped.
  TURBOFLEET_EXPECT_OK(store().BeginDraft(MakeRecord({.number = 2})));
}

TEST_P(JobStoreTest, SameRequestWithOtherContentsIsRefused) {
  SubmitSample(store(), {.number = 1, .request_id = "r"});
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 2, .request_id = "r"})));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(2), MakePrompts(1)));
  EXPECT_THAT(store().Submit(SampleId(2), "another"), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(store().Submit(SampleId(2), "fingerprint"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(IdsOf(store().List({}, 10)), ElementsAre(SampleId(1)));
}

TEST_P(JobStoreTest, RequestIdsAreATenantsOwnAndEmptyOnesAreNone) {
  SubmitSample(store(), {.number = 1, .tenant = "anna", .request_id = "r"});
  SubmitSample(store(), {.number = 2, .tenant = "bert", .request_id = "r"});
  SubmitSample(store(), {.number = 3, .tenant = "anna", .request_id = ""});
  SubmitSample(store(), {.number = 4, .tenant = "anna", .request_id = ""});
  EXPECT_THAT(IdsOf(store().List({}, 10)), SizeIs(4));
}

TEST_P(JobStoreTest, RequestIdIsFreeAgainOnceItsJobIsDeleted) {
  SubmitSample(store(), {.number = 1, .request_id = "r"});
  TURBOFLEET_ASSERT_OK(store().End(SampleId(1), JobState::kCancelled, At(1)));
  // Until then the job is found, even if it has ended.
  EXPECT_EQ(SubmitSample(store(), {.number = 2, .request_id = "r"}).id, SampleId(1));
  TURBOFLEET_ASSERT_OK(store().Delete(SampleId(1)));
  EXPECT_EQ(SubmitSample(store(), {.number = 3, .request_id = "r"}).id, SampleId(3));
}

TEST_P(JobStoreTest, PromptsAreReadByIndexAcrossThePartsInWhichTheyCame) {
  std::vector<std::string> all;
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1})));
  for (const int32_t count : {1, 2'500, 3, 0, 1'024, 7}) {
    const std::vector<std::string> part = MakePrompts(count, absl::StrCat("part ", count));
    TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(1), part));
    all.insert(all.end(), part.begin(), part.end());
  }
  // One that is larger than what is kept together.
  all.emplace_back(3'000'000, 'x');
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(SampleId(1), {all.back()}));
  TURBOFLEET_ASSERT_OK(store().Submit(SampleId(1), ""));
  const auto total = static_cast<int32_t>(all.size());

  EXPECT_THAT(store().ReadPrompts(SampleId(1), 0, total), IsOkAndHolds(all));
  for (const int32_t first : {0, 1, 1'023, 1'024, 1'025, 2'500, 2'501, 3'527, total - 1}) {
    const std::vector<std::string> expected(all.begin() + first, all.begin() + std::min(total, first + 1'030));
    EXPECT_THAT(store().ReadPrompts(SampleId(1), first, static_cast<int32_t>(expected.size())), IsOkAndHolds(expected))
        << first;
  }
  EXPECT_THAT(store().ReadPrompts(SampleId(1), total, 0), IsOkAndHolds(IsEmpty()));
}

TEST_P(JobStoreTest, PromptsOutsideOfTheJobAreOutOfRange) {
  SubmitSample(store(), {.number = 1}, 5);
  EXPECT_THAT(store().ReadPrompts(SampleId(1), 0, 6), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store().ReadPrompts(SampleId(1), 6, 0), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store().ReadPrompts(SampleId(1), -1, 1), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store().ReadPrompts(SampleId(1), 0, -1), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store().ReadPrompts(SampleId(1), 2'147'483'647, 2'147'483'647), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store().ReadPrompts(SampleId(2), 0, 1), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, InputStaysForAsLongAsAJobOrDraftNamesIt) {
  const std::string sha = SampleSha256(7);
  const std::string content("picture\0bytes", 13);
  EXPECT_THAT(store().PutInput(sha, content), StatusIs(absl::StatusCode::kFailedPrecondition));
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1, .init_image_sha256 = sha})));
  EXPECT_THAT(store().ReadInput(sha), StatusIs(absl::StatusCode::kNotFound));
  TURBOFLEET_ASSERT_OK(store().PutInput(sha, content));
  SubmitSample(store(), {.number = 2, .init_image_sha256 = sha});
  TURBOFLEET_ASSERT_OK(store().PutInput(sha, "what is there stays"));

  TURBOFLEET_ASSERT_OK(store().DropDraft(SampleId(1)));
  Restart();
  EXPECT_THAT(store().ReadInput(sha), IsOkAndHolds(content));
  TURBOFLEET_ASSERT_OK(store().End(SampleId(2), JobState::kCancelled, At(1)));
  EXPECT_THAT(store().ReadInput(sha), IsOkAndHolds(content));
  TURBOFLEET_ASSERT_OK(store().Delete(SampleId(2)));
  EXPECT_THAT(store().ReadInput(sha), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, InputOfADraftThatIsNotSubmittedGoesWithIt) {
  const std::string sha = SampleSha256(7);
  for (const auto& drop : std::vector<std::function<void()>>{
           [&] { TURBOFLEET_EXPECT_OK(store().DropDraft(SampleId(1))); }, [&] { Restart(); }}) {
    TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 1, .init_image_sha256 = sha})));
    TURBOFLEET_ASSERT_OK(store().PutInput(sha, "content"));
    drop();
    EXPECT_THAT(store().ReadInput(sha), StatusIs(absl::StatusCode::kNotFound));
  }
}

TEST_P(JobStoreTest, ListIsNewestFirstThenById) {
  SubmitSample(store(), {.number = 3, .create_time = At(10)});
  SubmitSample(store(), {.number = 1, .create_time = At(20)});
  SubmitSample(store(), {.number = 2, .create_time = At(10)});
  EXPECT_THAT(IdsOf(store().List({}, 10)), ElementsAre(SampleId(1), SampleId(2), SampleId(3)));
  EXPECT_THAT(IdsOf(store().List({}, 2)), ElementsAre(SampleId(1), SampleId(2)));
  EXPECT_THAT(IdsOf(store().List({}, 0)), IsEmpty());
}

TEST_P(JobStoreTest, ListGoesOnAfterTheLastJobOfThePageBefore) {
  for (int number = 1; number <= 9; ++number) {
    SubmitSample(store(), {.number = number, .create_time = At(number / 3)});
  }
  std::vector<std::string> ids;
  JobQuery query;
  for (int page = 0; page < 5; ++page) {
    const auto records = store().List(query, 2);
    TURBOFLEET_ASSERT_OK(records);
    ASSERT_THAT(*records, SizeIs(page < 4 ? 2 : 1));
    for (const JobRecord& record : *records) ids.push_back(record.id);
    query.after = {records->back().create_time, records->back().id};
  }
  EXPECT_EQ(ids, IdsOf(store().List({}, 10)));
  EXPECT_THAT(IdsOf(store().List(query, 2)), IsEmpty());
}

TEST_P(JobStoreTest, ListFiltersByTenantStateAndAllLabels) {
  SubmitSample(store(), {.number = 1, .tenant = "anna", .labels = {{"team", "red"}, {"run", "1"}}});
  SubmitSample(store(), {.number = 2, .tenant = "bert", .labels = {{"team", "red"}, {"run", "2"}}});
  SubmitSample(store(), {.number = 3, .tenant = "anna", .labels = {{"team", "blue"}}});
  TURBOFLEET_ASSERT_OK(store().End(SampleId(3), JobState::kExpired, At(1)));

  EXPECT_THAT(IdsOf(store().List({.tenant = "anna"}, 10)), ElementsAre(SampleId(1), SampleId(3)));
  EXPECT_THAT(IdsOf(store().List({.tenant = "nobody"}, 10)), IsEmpty());
  EXPECT_THAT(IdsOf(store().List({.state = JobState::kRunning}, 10)), ElementsAre(SampleId(1), SampleId(2)));
  EXPECT_THAT(IdsOf(store().List({.state = JobState::kExpired}, 10)), ElementsAre(SampleId(3)));
  EXPECT_THAT(IdsOf(store().List({.state = JobState::kCancelled}, 10)), IsEmpty());
  EXPECT_THAT(IdsOf(store().List({.labels = {{"team", "red"}}}, 10)), ElementsAre(SampleId(1), SampleId(2)));
  EXPECT_THAT(IdsOf(store().List({.labels = {{"team", "red"}, {"run", "2"}}}, 10)), ElementsAre(SampleId(2)));
  EXPECT_THAT(IdsOf(store().List({.labels = {{"team", "1"}}}, 10)), IsEmpty());
  EXPECT_THAT(IdsOf(store().List({.tenant = "anna", .state = JobState::kRunning, .labels = {{"team", "red"}}}, 10)),
              ElementsAre(SampleId(1)));
  EXPECT_THAT(
      IdsOf(store().List({.tenant = "anna", .after = std::pair<absl::Time, std::string>(At(0), SampleId(1))}, 10)),
      ElementsAre(SampleId(3)));
}

TEST_P(JobStoreTest, ListRunningGoesById) {
  for (const int number : {4, 2, 3, 1}) SubmitSample(store(), {.number = number, .create_time = At(number)});
  TURBOFLEET_ASSERT_OK(store().End(SampleId(2), JobState::kCancelled, At(5)));
  EXPECT_THAT(IdsOf(store().ListRunning("", 10)), ElementsAre(SampleId(1), SampleId(3), SampleId(4)));
  EXPECT_THAT(IdsOf(store().ListRunning("", 1)), ElementsAre(SampleId(1)));
  EXPECT_THAT(IdsOf(store().ListRunning(SampleId(1), 10)), ElementsAre(SampleId(3), SampleId(4)));
}

TEST_P(JobStoreTest, EndedJobIsDueOnceItsRetentionIsOver) {
  for (const int number : {1, 2, 3}) SubmitSample(store(), {.number = number});
  TURBOFLEET_ASSERT_OK(store().End(SampleId(2), JobState::kCancelled, At(10)));
  TURBOFLEET_ASSERT_OK(store().End(SampleId(1), JobState::kCancelled, At(20)));
  const absl::Time due = At(20) + MakeRecord({}).spec->retention;
  EXPECT_EQ(store().Find(SampleId(1)).value().delete_time, due);
  EXPECT_THAT(store().ListDue(due, 10), IsOkAndHolds(ElementsAre(SampleId(2), SampleId(1))));
  EXPECT_THAT(store().ListDue(due, 1), IsOkAndHolds(ElementsAre(SampleId(2))));
  EXPECT_THAT(store().ListDue(due - absl::Nanoseconds(1), 10), IsOkAndHolds(ElementsAre(SampleId(2))));
  EXPECT_THAT(store().ListDue(At(20), 10), IsOkAndHolds(IsEmpty()));
}

TEST_P(JobStoreTest, JobThatIsKeptForEverIsNeverDue) {
  JobRecord record = MakeRecord({.number = 1});
  JobSpec spec = *record.spec;
  spec.retention = absl::InfiniteDuration();
  record.spec = std::make_shared<const JobSpec>(spec);
  TURBOFLEET_ASSERT_OK(store().BeginDraft(record));
  TURBOFLEET_ASSERT_OK(store().AppendPrompts(record.id, MakePrompts(1)));
  TURBOFLEET_ASSERT_OK(store().Submit(record.id, ""));
  const auto ended = store().End(record.id, JobState::kCancelled, At(1));
  TURBOFLEET_ASSERT_OK(ended);
  EXPECT_EQ(ended->delete_time, absl::InfiniteFuture());
  EXPECT_THAT(store().ListDue(At(4'000'000'000), 10), IsOkAndHolds(IsEmpty()));
}

TEST_P(JobStoreTest, UsageCountsJobsInAnyStateAndBytes) {
  SubmitSample(store(), {.number = 1, .tenant = "anna"}, 2);
  SubmitSample(store(), {.number = 2, .tenant = "anna"});
  SubmitSample(store(), {.number = 3, .tenant = "bert"});
  TURBOFLEET_ASSERT_OK(store().Claim(SampleId(1), 1));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(SampleId(1), 0, {0, 1}), At(1)));
  TURBOFLEET_ASSERT_OK(store().End(SampleId(2), JobState::kCancelled, At(1)));
  const auto usage = store().Usage();
  TURBOFLEET_ASSERT_OK(usage);
  ASSERT_THAT(*usage, UnorderedElementsAre(Pair("anna", ::testing::_), Pair("bert", ::testing::_)));
  EXPECT_EQ(ToText(usage->at("anna")), "2/200");
  EXPECT_EQ(ToText(usage->at("bert")), "1/0");
}

}  // namespace
}  // namespace turbofleet
