// Claiming shards, committing results, reading and releasing them, ending jobs; and transactions.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

template <typename T>
std::vector<std::string> TextsOf(const absl::StatusOr<std::vector<T>>& values) {
  TURBOFLEET_EXPECT_OK(values);
  std::vector<std::string> texts;
  if (values.ok()) {
    for (const T& value : *values) texts.push_back(ToText(value));
  }
  return texts;
}

const std::string& Job() {
  static const std::string& id = *new std::string(SampleId(1));
  return id;
}

TEST_P(JobStoreTest, ClaimsAreConsecutiveShardsUntilThereAreNone) {
  SubmitSample(store(), {.number = 1, .seeds_per_prompt = 500}, 5);  // 2,500 images.
  EXPECT_THAT(TextsOf(store().Claim(Job(), 0)), IsEmpty());
  EXPECT_THAT(TextsOf(store().Claim(Job(), 2)), ElementsAre("shard 0 0+1024 ended ", "shard 1 1024+1024 ended "));
  EXPECT_THAT(TextsOf(store().Claim(Job(), 2)), ElementsAre("shard 2 2048+452 ended "));
  EXPECT_THAT(TextsOf(store().Claim(Job(), 2)), IsEmpty());
  EXPECT_THAT(store().Claim(SampleId(2), 1), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, ShardsThatWereGivenBackAreClaimedFirstWithWhatHasEnded) {
  SubmitSample(store(), {.number = 1, .seeds_per_prompt = 1'024}, 5);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 3));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 1, {2'047, 1'024, 1'031}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Unclaim(Job(), {2, 1}));
  EXPECT_THAT(store().Commit(PicturesOf(Job(), 1, {1'025}), At(2)), StatusIs(absl::StatusCode::kFailedPrecondition));

  EXPECT_THAT(TextsOf(store().Claim(Job(), 3)), ElementsAre("shard 1 1024+1024 ended 1024,1031,2047",
                                                            "shard 2 2048+1024 ended ", "shard 3 3072+1024 ended "));
}

TEST_P(JobStoreTest, GivingBackWhatIsNotOursDoesNothing) {
  SubmitSample(store(), {.number = 1}, 2'000);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  TURBOFLEET_EXPECT_OK(store().Unclaim(Job(), {-1, 1, 5}));
  TURBOFLEET_EXPECT_OK(store().Unclaim(SampleId(2), {0}));
  EXPECT_THAT(TextsOf(store().Claim(Job(), 5)), ElementsAre("shard 1 1024+976 ended "));
}

TEST_P(JobStoreTest, ShardsOfALifeThatEndedAreClaimedAgain) {
  SubmitSample(store(), {.number = 1, .seeds_per_prompt = 1'024}, 4);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 2));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 1, {1'030}), At(1)));
  Restart();
  EXPECT_THAT(store().Commit(PicturesOf(Job(), 1, {1'031}), At(2)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(TextsOf(store().Claim(Job(), 3)),
              ElementsAre("shard 0 0+1024 ended ", "shard 1 1024+1024 ended 1030", "shard 2 2048+1024 ended "));
}

TEST_P(JobStoreTest, CommittedImagesAreNumberedInTheOrderOfTheirCommits) {
  SubmitSample(store(), {.number = 1}, 1'500);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 2));
  ShardResults first = PicturesOf(Job(), 1, {1'300, 1'200});
  first.results.push_back(MakeFailure(1'250));
  const absl::StatusOr<CommitReceipt> receipt = store().Commit(first, At(1));
  TURBOFLEET_ASSERT_OK(receipt);
  EXPECT_THAT(receipt->sequences, ElementsAre(1, 2, 3));
  EXPECT_FALSE(receipt->shard_done);
  EXPECT_EQ(receipt->job.images_completed, 2);
  EXPECT_EQ(receipt->job.images_failed, 1);
  EXPECT_EQ(receipt->job.bytes_retained, 200);
  EXPECT_EQ(receipt->job.state, JobState::kRunning);
  EXPECT_EQ(ToText(store().Find(Job()).value()), ToText(receipt->job));

  EXPECT_THAT(store().Commit(PicturesOf(Job(), 0, {7}), At(2)).value().sequences, ElementsAre(4));
  const auto results = store().ReadResults(Job(), 0, 10);
  EXPECT_THAT(TextsOf(results), ElementsAre("1:1300@pack-1", "2:1200@pack-1", "3:1250!", "4:7@pack-1"));
  EXPECT_EQ((*results)[1].result, MakePicture(1'200));
  EXPECT_EQ((*results)[2].result, MakeFailure(1'250));
}

// Work is done at least once: the first result counts, and nothing of a later one.
TEST_P(JobStoreTest, ImageThatHasEndedKeepsItsFirstResult) {
  SubmitSample(store(), {.number = 1}, 10);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  ShardResults first = PicturesOf(Job(), 0, {1, 1});
  first.results.push_back(MakeFailure(2));
  EXPECT_THAT(store().Commit(first, At(1)).value().sequences, ElementsAre(1, 0, 2));

  const auto again = store().Commit(PicturesOf(Job(), 0, {2, 3, 1}, "pack-2"), At(2));
  TURBOFLEET_ASSERT_OK(again);
  EXPECT_THAT(again->sequences, ElementsAre(0, 3, 0));
  EXPECT_EQ(again->job.images_completed, 2);
  EXPECT_EQ(again->job.images_failed, 1);
  EXPECT_EQ(again->job.bytes_retained, 200);
  EXPECT_THAT(TextsOf(store().ReadResults(Job(), 0, 10)), ElementsAre("1:1@pack-1", "2:2!", "3:3@pack-2"));

  const auto nothing_new = store().Commit(PicturesOf(Job(), 0, {3, 2}, "pack-3"), At(3));
  EXPECT_THAT(nothing_new.value().sequences, ElementsAre(0, 0));
  EXPECT_THAT(store().Commit({.job = Job(), .shard = 0, .results = {}}, At(3)).value().sequences, IsEmpty());
  EXPECT_THAT(store().ReleaseResults(Job(), 3), IsOkAndHolds(ElementsAre("pack-1", "pack-2")));
}

TEST_P(JobStoreTest, CommitOfAnImageOutsideOfTheShardChangesNothing) {
  SubmitSample(store(), {.number = 1}, 1'030);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 2));
  for (const auto& [shard, index] :
       std::vector<std::pair<int32_t, int32_t>>{{0, 1'024}, {0, -1}, {1, 1'023}, {1, 1'030}}) {
    ShardResults results = PicturesOf(Job(), shard, {shard * kShardImages});
    results.results.push_back(MakePicture(index));
    EXPECT_THAT(store().Commit(results, At(1)), StatusIs(absl::StatusCode::kInvalidArgument)) << index;
  }
  EXPECT_EQ(store().Find(Job()).value().LastSequence(), 0);
  EXPECT_THAT(TextsOf(store().ReadResults(Job(), 0, 10)), IsEmpty());
}

TEST_P(JobStoreTest, CommitIntoAShardThatIsNotOursIsRefused) {
  SubmitSample(store(), {.number = 1}, 1'500);
  EXPECT_THAT(store().Commit(PicturesOf(Job(), 0, {0}), At(1)), StatusIs(absl::StatusCode::kFailedPrecondition));
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  EXPECT_THAT(store().Commit(PicturesOf(Job(), 1, {1'024}), At(1)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(store().Commit(PicturesOf(Job(), -1, {0}), At(1)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(store().Commit(PicturesOf(SampleId(2), 0, {0}), At(1)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, ShardAndJobEndWithTheirLastImage) {
  SubmitSample(store(), {.number = 1}, 1'026);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 2));
  EXPECT_FALSE(store().Commit(PicturesOf(Job(), 1, {1'025}), At(1)).value().shard_done);
  ShardResults failed = {.job = Job(), .shard = 1, .results = {MakeFailure(1'024)}};
  EXPECT_TRUE(store().Commit(failed, At(2)).value().shard_done);
  // A late result of a shard that is done is a late result like any other.
  const auto late = store().Commit(failed, At(3));
  TURBOFLEET_ASSERT_OK(late);
  EXPECT_THAT(late->sequences, ElementsAre(0));
  EXPECT_TRUE(late->shard_done);
  // And nobody's to claim, even if it is given back.
  TURBOFLEET_ASSERT_OK(store().Unclaim(Job(), {1}));
  EXPECT_THAT(TextsOf(store().Claim(Job(), 9)), IsEmpty());

  ShardResults rest = {.job = Job(), .shard = 0, .results = {}};
  for (int32_t i = 0; i < kShardImages; ++i) rest.results.push_back(MakePicture(i));
  const auto last = store().Commit(rest, At(4));
  TURBOFLEET_ASSERT_OK(last);
  EXPECT_TRUE(last->shard_done);
  EXPECT_EQ(last->job.state, JobState::kCompleted);
  EXPECT_EQ(last->job.images_completed, 1'025);
  EXPECT_EQ(last->job.images_failed, 1);
  EXPECT_EQ(last->job.end_time, At(4));
  EXPECT_EQ(last->job.delete_time, At(4) + last->job.spec->retention);
  EXPECT_EQ(ToText(store().Find(Job()).value()), ToText(last->job));
  EXPECT_THAT(store().Commit(failed, At(5)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().Claim(Job(), 1), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(ToText(store().End(Job(), JobState::kCancelled, At(6)).value()), ToText(last->job));
  EXPECT_THAT(TextsOf(store().ReadResults(Job(), 1'024, 10)), ElementsAre("1025:1022@pack-1", "1026:1023@pack-1"));
}

// As if one after the other: the same shard and job twice, with errors in between that stop nothing.
TEST_P(JobStoreTest, CommitAllAnswersOneByOne) {
  SubmitSample(store(), {.number = 1}, 3);
  SubmitSample(store(), {.number = 2}, 2'000);
  TURBOFLEET_ASSERT_OK(store().Claim(SampleId(1), 1));
  TURBOFLEET_ASSERT_OK(store().Claim(SampleId(2), 1));
  const auto receipts = store().CommitAll(
      {PicturesOf(SampleId(2), 0, {5}), PicturesOf(SampleId(1), 0, {0, 2}), PicturesOf(SampleId(3), 0, {0}),
       PicturesOf(SampleId(2), 1, {1'024}), PicturesOf(SampleId(1), 0, {2, 1}), PicturesOf(SampleId(2), 0, {5'000}),
       PicturesOf(SampleId(1), 0, {0}), PicturesOf(SampleId(2), 0, {6, 5}, "pack-2")},
      At(1));
  TURBOFLEET_ASSERT_OK(receipts);
  ASSERT_THAT(*receipts, SizeIs(8));
  EXPECT_THAT((*receipts)[0].value().sequences, ElementsAre(1));
  EXPECT_THAT((*receipts)[1].value().sequences, ElementsAre(1, 2));
  EXPECT_EQ((*receipts)[1].value().job.state, JobState::kRunning);
  EXPECT_THAT((*receipts)[2], StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT((*receipts)[3], StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT((*receipts)[4].value().sequences, ElementsAre(0, 3));
  EXPECT_EQ((*receipts)[4].value().job.state, JobState::kCompleted);
  EXPECT_THAT((*receipts)[5], StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT((*receipts)[6], StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT((*receipts)[7].value().sequences, ElementsAre(2, 0));
  EXPECT_EQ(ToText((*receipts)[4].value().job), ToText(store().Find(SampleId(1)).value()));
  EXPECT_EQ(ToText((*receipts)[7].value().job), ToText(store().Find(SampleId(2)).value()));
  EXPECT_THAT(TextsOf(store().ReadResults(SampleId(1), 0, 9)), ElementsAre("1:0@pack-1", "2:2@pack-1", "3:1@pack-1"));
  EXPECT_THAT(TextsOf(store().ReadResults(SampleId(2), 0, 9)), ElementsAre("1:5@pack-1", "2:6@pack-2"));
  EXPECT_THAT(store().CommitAll({}, At(1)).value(), IsEmpty());
}

TEST_P(JobStoreTest, ResultsAreReadAfterAnySequence) {
  SubmitSample(store(), {.number = 1}, 20);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {0, 1, 2}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {3}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {4, 5}), At(1)));
  Restart();
  std::vector<std::string> all = TextsOf(store().ReadResults(Job(), 0, 100));
  ASSERT_THAT(all, SizeIs(6));
  for (int64_t after = 0; after <= 7; ++after) {
    for (int32_t max = 0; max <= 7; ++max) {
      const size_t first = std::min<size_t>(after, all.size());
      const size_t last = std::min<size_t>(first + max, all.size());
      EXPECT_EQ(TextsOf(store().ReadResults(Job(), after, max)),
                std::vector<std::string>(all.begin() + first, all.begin() + last))
          << after << " " << max;
    }
  }
  EXPECT_THAT(store().ReadResults(SampleId(2), 0, 1), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, ShardResultsAreByIndexAndOfTheShardOnly) {
  SubmitSample(store(), {.number = 1}, 2'000);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 2));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {9, 3}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 1, {1'100}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {5}), At(1)));
  EXPECT_THAT(TextsOf(store().ReadShardResults(Job(), 0)), ElementsAre("2:3@pack-1", "4:5@pack-1", "1:9@pack-1"));
  EXPECT_THAT(TextsOf(store().ReadShardResults(Job(), 1)), ElementsAre("3:1100@pack-1"));
  EXPECT_THAT(TextsOf(store().ReadShardResults(Job(), 2)), IsEmpty());
  TURBOFLEET_ASSERT_OK(store().ReleaseResults(Job(), 1));
  EXPECT_THAT(TextsOf(store().ReadShardResults(Job(), 0)), ElementsAre("2:3@pack-1", "4:5@pack-1"));
  EXPECT_THAT(store().ReadShardResults(SampleId(2), 0), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, ReleasedResultsAndThePacksThatOnlyTheyUseAreGone) {
  SubmitSample(store(), {.number = 1}, 20);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {0, 1, 2}, "b"), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {3}, "a"), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {4}, "b"), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {5}, "c"), At(1)));

  EXPECT_THAT(store().ReleaseResults(Job(), 7), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store().ReleaseResults(Job(), 2), IsOkAndHolds(IsEmpty()));
  EXPECT_EQ(store().Find(Job()).value().released_sequence, 2);
  EXPECT_EQ(store().Find(Job()).value().bytes_retained, 600);
  EXPECT_THAT(store().ReadResults(Job(), 1, 9), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(TextsOf(store().ReadResults(Job(), 2, 2)), ElementsAre("3:2@b", "4:3@a"));

  EXPECT_THAT(store().ReleaseResults(Job(), 5), IsOkAndHolds(ElementsAre("a", "b")));
  EXPECT_EQ(store().Find(Job()).value().bytes_retained, 100);
  EXPECT_EQ(store().Find(Job()).value().LastSequence(), 6);
  EXPECT_THAT(store().ReleaseResults(Job(), 3), IsOkAndHolds(IsEmpty()));
  EXPECT_EQ(store().Find(Job()).value().released_sequence, 5);
  // A pack that is still written to counts again.
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {6}, "b"), At(1)));
  EXPECT_EQ(store().Find(Job()).value().bytes_retained, 200);
  EXPECT_THAT(store().ReleaseResults(Job(), 7), IsOkAndHolds(ElementsAre("b", "c")));
  EXPECT_EQ(store().Find(Job()).value().bytes_retained, 0);
  EXPECT_THAT(TextsOf(store().ReadResults(Job(), 7, 9)), IsEmpty());
  EXPECT_THAT(store().ReleaseResults(SampleId(2), 0), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, SequenceBeforeIndexStopsAtTheFirstResultBeyondIt) {
  SubmitSample(store(), {.number = 1}, 2'000);
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 5), IsOkAndHolds(0));
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 2));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {2, 0, 5}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 1, {1'024}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {1}), At(1)));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 0), IsOkAndHolds(0));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 2), IsOkAndHolds(0));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 3), IsOkAndHolds(2));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 5), IsOkAndHolds(2));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 6), IsOkAndHolds(3));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 1'025), IsOkAndHolds(5));
  // What is released lies behind.
  TURBOFLEET_ASSERT_OK(store().ReleaseResults(Job(), 2));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 0), IsOkAndHolds(2));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 6), IsOkAndHolds(3));
  TURBOFLEET_ASSERT_OK(store().ReleaseResults(Job(), 3));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 6), IsOkAndHolds(3));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 1'025), IsOkAndHolds(5));
  EXPECT_THAT(store().SequenceBeforeIndex(SampleId(2), 0), StatusIs(absl::StatusCode::kNotFound));
}

// Of images that were committed together some may be released, and they say nothing any more.
TEST_P(JobStoreTest, SequenceBeforeIndexPassesOverWhatIsReleased) {
  SubmitSample(store(), {.number = 1}, 20);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {9, 0}), At(1)));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {1, 8}), At(1)));
  TURBOFLEET_ASSERT_OK(store().ReleaseResults(Job(), 1));
  EXPECT_THAT(store().SequenceBeforeIndex(Job(), 5), IsOkAndHolds(3));
}

TEST_P(JobStoreTest, JobEndsOnceAndKeepsWhatHadEnded) {
  SubmitSample(store(), {.number = 1}, 20);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(Job(), 0, {0, 1}), At(1)));
  const auto ended = store().End(Job(), JobState::kExpired, At(5));
  TURBOFLEET_ASSERT_OK(ended);
  EXPECT_EQ(ended->state, JobState::kExpired);
  EXPECT_EQ(ended->end_time, At(5));
  EXPECT_EQ(ended->delete_time, At(5) + ended->spec->retention);
  EXPECT_EQ(ended->images_completed, 2);
  EXPECT_THAT(store().Commit(PicturesOf(Job(), 0, {2}), At(6)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().Claim(Job(), 1), StatusIs(absl::StatusCode::kNotFound));
  TURBOFLEET_EXPECT_OK(store().Unclaim(Job(), {0}));
  Restart();
  EXPECT_EQ(ToText(store().End(Job(), JobState::kCancelled, At(7)).value()), ToText(*ended));
  EXPECT_THAT(TextsOf(store().ReadResults(Job(), 0, 9)), ElementsAre("1:0@pack-1", "2:1@pack-1"));
  EXPECT_THAT(store().ReleaseResults(Job(), 2), IsOkAndHolds(ElementsAre("pack-1")));
  EXPECT_THAT(store().End(SampleId(2), JobState::kCancelled, At(7)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, DeletedJobIsGoneWithAllThatItHad) {
  SubmitSample(store(), {.number = 1, .labels = {{"a", "b"}}}, 20);
  SubmitSample(store(), {.number = 2, .labels = {{"a", "b"}}}, 20);
  for (const int number : {1, 2}) {
    TURBOFLEET_ASSERT_OK(store().Claim(SampleId(number), 1));
    TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(SampleId(number), 0, {0}, "z"), At(1)));
    TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(SampleId(number), 0, {1}, "a"), At(1)));
  }
  EXPECT_THAT(store().Delete(SampleId(1)), StatusIs(absl::StatusCode::kFailedPrecondition));
  TURBOFLEET_ASSERT_OK(store().End(SampleId(1), JobState::kCancelled, At(2)));
  EXPECT_THAT(store().Delete(SampleId(1)), IsOkAndHolds(ElementsAre("a", "z")));
  EXPECT_THAT(store().Delete(SampleId(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().Find(SampleId(1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().ReadResults(SampleId(1), 0, 1), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store().List({.labels = {{"a", "b"}}}, 9).value(), SizeIs(1));

  // The id starts afresh, and the other job has what it had.
  EXPECT_EQ(SubmitSample(store(), {.number = 1}, 3).spec->prompt_count, 3);
  EXPECT_THAT(TextsOf(store().Claim(SampleId(1), 9)), ElementsAre("shard 0 0+3 ended "));
  EXPECT_THAT(TextsOf(store().ReadResults(SampleId(1), 0, 9)), IsEmpty());
  EXPECT_THAT(store().List({.labels = {{"a", "b"}}}, 9).value(), SizeIs(1));
  EXPECT_THAT(TextsOf(store().ReadResults(SampleId(2), 0, 9)), ElementsAre("1:0@z", "2:1@a"));
}

TEST_P(JobStoreTest, CallsInATransactionSeeOneAnotherAndFailAlone) {
  TURBOFLEET_ASSERT_OK(store().Transact([&] {
    SubmitSample(store(), {.number = 1}, 5);
    EXPECT_THAT(store().BeginDraft(MakeRecord({.number = 1})), StatusIs(absl::StatusCode::kAlreadyExists));
    EXPECT_THAT(store().Find(SampleId(2)), StatusIs(absl::StatusCode::kNotFound));
    TURBOFLEET_EXPECT_OK(store().Claim(Job(), 1));
    EXPECT_THAT(store().Commit(PicturesOf(Job(), 0, {5}), At(1)), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(store().Commit(PicturesOf(Job(), 0, {4}), At(1)).value().sequences, ElementsAre(1));
    EXPECT_THAT(store().Commit(PicturesOf(Job(), 0, {3}), At(1)).value().sequences, ElementsAre(2));
    EXPECT_THAT(TextsOf(store().ReadResults(Job(), 0, 9)), ElementsAre("1:4@pack-1", "2:3@pack-1"));
    return absl::OkStatus();
  }));
  TURBOFLEET_ASSERT_OK(store().Transact([] { return absl::OkStatus(); }));
  Restart();
  EXPECT_EQ(store().Find(Job()).value().LastSequence(), 2);
}

TEST_P(JobStoreTest, ATransactionWhoseBodyFailsHasNotHappened) {
  SubmitSample(store(), {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  const std::string before = ToText(store().Find(Job()).value());
  EXPECT_THAT(store().Transact([this] {
    TURBOFLEET_EXPECT_OK(store().Commit(PicturesOf(Job(), 0, {0}), At(1)));
    TURBOFLEET_EXPECT_OK(store().BeginDraft(MakeRecord({.number = 2})));
    return absl::ResourceExhaustedError("the disk is full");
  }),
              StatusIs(absl::StatusCode::kResourceExhausted, "the disk is full"));
  EXPECT_EQ(ToText(store().Find(Job()).value()), before);
  TURBOFLEET_EXPECT_OK(store().BeginDraft(MakeRecord({.number = 2})));
  EXPECT_EQ(store().Commit(PicturesOf(Job(), 0, {0}), At(1)).value().sequences.front(), 1);
}

TEST_P(JobStoreTest, LeaseIsRenewedAndNobodyIsDead) {
  SubmitSample(store(), {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(store().Claim(Job(), 1));
  TURBOFLEET_EXPECT_OK(store().Renew());
  EXPECT_THAT(store().TakeOverFromDead(), IsOkAndHolds(0));
  EXPECT_GT(store().lease_duration(), absl::ZeroDuration());
  EXPECT_THAT(TextsOf(store().Claim(Job(), 1)), IsEmpty());
  store().Idle();
  TURBOFLEET_EXPECT_OK(store().Commit(PicturesOf(Job(), 0, {4}), At(1)));
}

}  // namespace
}  // namespace turbofleet
