#include "tests/support/status_matchers.h"
#include "worker/engine/simulated/simulated_engine.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(SimulatedOptionsTest, EveryFieldIsReadByItsName) {
  const std::string digest = "sha256:" + std::string(64, 'a');
  const absl::StatusOr<SimulatedEngineOptions> options = ParseSimulatedEngineOptions(
      "batch_time=2ms,image_time=1.5s,jitter=0.2,failure_rate=0.01,crash_rate=1,fail_device_after=3,width=128,"
      "height=1024,batch_images_max=16,seed=7,model_digest=" +
      digest);
  TURBOFLEET_ASSERT_OK(options);
  EXPECT_EQ(options->batch_time, absl::Milliseconds(2));
  EXPECT_EQ(options->image_time, absl::Milliseconds(1500));
  EXPECT_EQ(options->jitter, 0.2);
  EXPECT_EQ(options->failure_rate, 0.01);
  EXPECT_EQ(options->crash_rate, 1);
  EXPECT_EQ(options->fail_device_after, 3);
  EXPECT_EQ(options->width, 128);
  EXPECT_EQ(options->height, 1024);
  EXPECT_EQ(options->batch_images_max, 16);
  EXPECT_EQ(options->seed, 7u);
  EXPECT_EQ(options->model_digest, digest);
}

TEST(SimulatedOptionsTest, NothingGivenIsTheDefaults) {
  const absl::StatusOr<SimulatedEngineOptions> options = ParseSimulatedEngineOptions("");
  TURBOFLEET_ASSERT_OK(options);
  EXPECT_EQ(options->image_time, SimulatedEngineOptions().image_time);
  EXPECT_EQ(options->failure_rate, 0);
  EXPECT_EQ(options->crash_rate, 0);
}

TEST(SimulatedOptionsTest, WhatIsWrongIsNamed) {
  const auto refused = [](const std::string& text, const std::string& name) {
    EXPECT_THAT(ParseSimulatedEngineOptions(text), StatusIs(kInvalid, HasSubstr(name))) << text;
  };
  refused("speed=5", "'speed'");
  refused("=5", "''");
  refused("jitter", "jitter has no value");
  for (const std::string field : {"jitter", "failure_rate", "crash_rate"}) {
    for (const std::string value : {"", "-0.1", "1.1", "nan", "inf", "much", "0.5x"})
      refused(field + "=" + value, field);
  }
  for (const std::string field : {"batch_time", "image_time"}) {
    for (const std::string value : {"", "5", "-1ms", "25h", "inf", "soon"}) refused(field + "=" + value, field);
  }
  for (const std::string field : {"width", "height"}) {
    for (const std::string value : {"", "0", "56", "1032", "-64", "64.0"}) refused(field + "=" + value, field);
    refused(field + "=68", "multiples of 8");
  }
  refused("batch_images_max=0", "batch_images_max");
  refused("batch_images_max=1025", "batch_images_max");
  refused("fail_device_after=-1", "fail_device_after");
  refused("seed=99999999999999999999", "seed");
  for (const std::string& value : {std::string("sha256:"), "sha256:" + std::string(64, 'A'),
                                   "md5:" + std::string(64, 'a'), std::string(71, 'a')}) {
    refused("model_digest=" + value, "model_digest");
  }
}

}  // namespace
}  // namespace turbofleet
