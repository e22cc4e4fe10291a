#include "coordinator/store/codec.h"

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/internal/store/v1/store.pb.h"

namespace turbofleet {
namespace {

// Name and tenant have columns of their own, prompts a table.
TEST(StoreCodecTest, JobSpecComesBackWithoutNameTenantAndPrompts) {
  JobSpec spec =
      *MakeRecord({.seeds_per_prompt = 3, .init_image_sha256 = SampleSha256(9), .labels = {{"a", "b"}, {"c", ""}}})
           .spec;
  spec.prompt_count = 7;
  spec.prompts = MakePrompts(7);
  JobSpec expected = spec;
  expected.name.clear();
  expected.tenant.clear();
  expected.prompts.clear();

  EXPECT_THAT(DecodeJobSpec(EncodeJobSpec(spec)), IsOkAndHolds(expected));
}

TEST(StoreCodecTest, InfiniteRetentionComesBack) {
  JobSpec spec;
  spec.retention = absl::InfiniteDuration();
  EXPECT_THAT(DecodeJobSpec(EncodeJobSpec(spec)), IsOkAndHolds(spec));
}

TEST(StoreCodecTest, PromptsComeBackInOrder) {
  const std::vector<std::string> prompts = {"a cat", "", std::string("with\0zero", 9), "日本"};
  EXPECT_THAT(DecodePrompts(EncodePrompts(prompts)), IsOkAndHolds(prompts));
}

TEST(StoreCodecTest, ResultsComeBackWithEveryField) {
  const std::vector<ImageResult> results = {MakePicture(5), MakeFailure(3), MakePicture(2'000'000'000, "other", 1)};
  EXPECT_THAT(DecodeResults(EncodeResults(results)), IsOkAndHolds(results));
}

TEST(StoreCodecTest, BrokenBytesAreDataLoss) {
  EXPECT_THAT(DecodeJobSpec("\xff"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodePrompts("\xff"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeResults("\xff"), StatusIs(absl::StatusCode::kDataLoss));
}

// A newer release may know a format or an outcome that this one does not: never take it for something else.
TEST(StoreCodecTest, UnknownValuesAreDataLoss) {
  internal::store::v1::JobSpec spec;
  spec.set_seeds_per_prompt(1);
  TURBOFLEET_EXPECT_OK(DecodeJobSpec(spec.SerializeAsString()));
  spec.set_format(4);
  EXPECT_THAT(DecodeJobSpec(spec.SerializeAsString()), StatusIs(absl::StatusCode::kDataLoss));
  spec.set_format(0);
  spec.set_job_class(3);
  EXPECT_THAT(DecodeJobSpec(spec.SerializeAsString()), StatusIs(absl::StatusCode::kDataLoss));
  spec.set_job_class(0);
  spec.set_seeds_per_prompt(0);
  EXPECT_THAT(DecodeJobSpec(spec.SerializeAsString()), StatusIs(absl::StatusCode::kDataLoss));

  internal::store::v1::Results results;
  results.add_results()->set_index(1);
  EXPECT_THAT(DecodeResults(results.SerializeAsString()), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace turbofleet
