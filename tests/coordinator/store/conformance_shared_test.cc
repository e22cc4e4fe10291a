// Several coordinators on one database: claims, leases, take-over, fencing.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {

// Stores that one coordinator uses alone have none of these.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SharedJobStoreTest);

namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Claim(JobStore& store, int32_t max) {
  const auto claimed = store.Claim(SampleId(1), max);
  TURBOFLEET_EXPECT_OK(claimed);
  std::vector<int32_t> numbers;
  if (claimed.ok()) {
    for (const ClaimedShard& shard : *claimed) numbers.push_back(shard.number);
  }
  return numbers;
}

TEST_P(SharedJobStoreTest, CoordinatorsSeeTheSameJobsAndClaimDifferentShards) {
  EXPECT_TRUE(store().shared());
  SubmitSample(store(), {.number = 1}, 5'000);
  EXPECT_THAT(Claim(other(), 2), ElementsAre(0, 1));
  EXPECT_THAT(Claim(store(), 2), ElementsAre(2, 3));
  EXPECT_THAT(store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(store().Commit(PicturesOf(SampleId(1), 2, {2'048}), At(1)).value().sequences, ElementsAre(1));
  EXPECT_THAT(other().Commit(PicturesOf(SampleId(1), 1, {1'024}), At(1)).value().sequences, ElementsAre(2));
  EXPECT_EQ(ToText(store().Find(SampleId(1)).value()), ToText(other().Find(SampleId(1)).value()));
  TURBOFLEET_ASSERT_OK(store().Unclaim(SampleId(1), {0, 3}));
  EXPECT_THAT(Claim(other(), 9), ElementsAre(3, 4));
}

TEST_P(SharedJobStoreTest, SameRequestThroughTwoCoordinatorsIsOneJob) {
  SubmitSample(store(), {.number = 1, .request_id = "r"});
  EXPECT_EQ(SubmitSample(other(), {.number = 2, .request_id = "r"}).id, SampleId(1));
}

TEST_P(SharedJobStoreTest, LivingCoordinatorsKeepWhatTheyHold) {
  SubmitSample(store(), {.number = 1}, 5'000);
  EXPECT_THAT(Claim(store(), 1), ElementsAre(0));
  EXPECT_THAT(other().TakeOverFromDead(), IsOkAndHolds(0));
  backend_->LapseLeases();
  TURBOFLEET_ASSERT_OK(store().Renew());
  EXPECT_THAT(other().TakeOverFromDead(), IsOkAndHolds(0));
  TURBOFLEET_EXPECT_OK(store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
}

TEST_P(SharedJobStoreTest, ShardsAndDraftsOfTheDeadAreTakenOver) {
  const std::string sha = SampleSha256(7);
  SubmitSample(store(), {.number = 1}, 2'100);
  EXPECT_THAT(Claim(store(), 3), ElementsAre(0, 1, 2));
  TURBOFLEET_ASSERT_OK(store().Commit(PicturesOf(SampleId(1), 1, {1'024}), At(1)));
  ShardResults last = {.job = SampleId(1), .shard = 2, .results = {}};
  for (int32_t i = 2'048; i < 2'100; ++i) last.results.push_back(MakePicture(i));
  EXPECT_TRUE(store().Commit(last, At(1)).value().shard_done);
  TURBOFLEET_ASSERT_OK(store().BeginDraft(MakeRecord({.number = 2, .init_image_sha256 = sha})));
  TURBOFLEET_ASSERT_OK(store().PutInput(sha, "content"));
  TURBOFLEET_ASSERT_OK(other().BeginDraft(MakeRecord({.number = 3})));

  backend_->LapseLeases();
  TURBOFLEET_ASSERT_OK(other().Renew());
  EXPECT_THAT(other().TakeOverFromDead(), IsOkAndHolds(2));  // One is done.
  EXPECT_THAT(other().TakeOverFromDead(), IsOkAndHolds(0));
  const auto claimed = other().Claim(SampleId(1), 9);
  TURBOFLEET_ASSERT_OK(claimed);
  ASSERT_EQ(claimed->size(), 2U);
  EXPECT_EQ(ToText((*claimed)[0]), "shard 0 0+1024 ended ");
  EXPECT_EQ(ToText((*claimed)[1]), "shard 1 1024+1024 ended 1024");
  EXPECT_THAT(other().ReadInput(sha), StatusIs(absl::StatusCode::kNotFound));
  TURBOFLEET_EXPECT_OK(other().BeginDraft(MakeRecord({.number = 2})));
  TURBOFLEET_EXPECT_OK(other().AppendPrompts(SampleId(3), MakePrompts(1)));
}

// A coordinator that was paused for too long changes nothing, whatever it tries.
TEST_P(SharedJobStoreTest, CoordinatorThatWasTakenOverFromIsFenced) {
  SubmitSample(store(), {.number = 1}, 5'000);
  SubmitSample(store(), {.number = 2});
  TURBOFLEET_ASSERT_OK(store().End(SampleId(2), JobState::kCancelled, At(1)));
  EXPECT_THAT(Claim(store(), 1), ElementsAre(0));
  backend_->LapseLeases();
  TURBOFLEET_ASSERT_OK(other().Renew());
  EXPECT_THAT(other().TakeOverFromDead(), IsOkAndHolds(1));
  const std::string before = ToText(other().Find(SampleId(1)).value());

  const auto fenced = StatusIs(absl::StatusCode::kAborted);
  EXPECT_THAT(store().Renew(), fenced);
  EXPECT_THAT(store().TakeOverFromDead(), fenced);
  EXPECT_THAT(store().Transact([this] { return store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)).status(); }),
              fenced);
  EXPECT_THAT(store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)), fenced);
  EXPECT_THAT(store().Claim(SampleId(1), 1), fenced);
  EXPECT_THAT(store().Unclaim(SampleId(1), {0}), fenced);
  EXPECT_THAT(store().End(SampleId(1), JobState::kCancelled, At(1)), fenced);
  EXPECT_THAT(store().ReleaseResults(SampleId(1), 0), fenced);
  EXPECT_THAT(store().Delete(SampleId(2)), fenced);
  EXPECT_THAT(store().BeginDraft(MakeRecord({.number = 3})), fenced);
  EXPECT_THAT(store().AppendPrompts(SampleId(3), MakePrompts(1)), fenced);
  EXPECT_THAT(store().Submit(SampleId(3), ""), fenced);
  EXPECT_THAT(store().DropDraft(SampleId(3)), fenced);
  EXPECT_THAT(store().PutInput(SampleSha256(1), ""), fenced);

  EXPECT_EQ(ToText(other().Find(SampleId(1)).value()), before);
  TURBOFLEET_EXPECT_OK(other().Find(SampleId(2)));
  EXPECT_THAT(Claim(other(), 1), ElementsAre(0));
}

TEST_P(SharedJobStoreTest, NewLifeOfACoordinatorFencesTheOneBeforeAndFreesItsShards) {
  SubmitSample(store(), {.number = 1}, 5'000);
  EXPECT_THAT(Claim(store(), 1), ElementsAre(0));
  EXPECT_THAT(Claim(other(), 1), ElementsAre(1));
  const std::unique_ptr<JobStore> next = backend_->Open("anna");
  EXPECT_THAT(store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store().Renew(), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(Claim(*next, 2), ElementsAre(0, 2));
  TURBOFLEET_EXPECT_OK(other().Commit(PicturesOf(SampleId(1), 1, {1'024}), At(1)));
}

// Who lapsed itself must not free what others hold by mistake, nor fence itself.
TEST_P(SharedJobStoreTest, TakingOverSparesOneself) {
  SubmitSample(store(), {.number = 1}, 5'000);
  EXPECT_THAT(Claim(store(), 1), ElementsAre(0));
  EXPECT_THAT(Claim(other(), 1), ElementsAre(1));
  backend_->LapseLeases();
  EXPECT_THAT(store().TakeOverFromDead(), IsOkAndHolds(1));
  TURBOFLEET_EXPECT_OK(store().Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
  EXPECT_THAT(other().Renew(), StatusIs(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace turbofleet
