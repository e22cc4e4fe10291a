// The small parts: sampler, noise, text cache, digest cache.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"
#include "tests/worker/sd_turbo/tiny_model.h"
#include "worker/engine/sd_turbo/model_digest.h"
#include "worker/engine/sd_turbo/noise.h"
#include "worker/engine/sd_turbo/sampler.h"
#include "worker/engine/sd_turbo/text_cache.h"

namespace turbofleet::sd_turbo {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

Sampler TurboSampler(Prediction prediction = Prediction::kEpsilon) {
  return Sampler({.beta_start = 0.00085,
                  .beta_end = 0.012,
                  .beta_schedule = BetaSchedule::kScaledLinear,
                  .prediction = prediction});
}

// The values are diffusers' EulerDiscreteScheduler's for SD-Turbo.
TEST(SamplerTest, LaysTheStepsAsDiffusersDoes) {
  const Sampler sampler = TurboSampler();
  EXPECT_THAT(sampler.MakeSchedule(1).time_steps, ElementsAre(999));
  EXPECT_THAT(sampler.MakeSchedule(2).time_steps, ElementsAre(999, 499));
  EXPECT_THAT(sampler.MakeSchedule(3).time_steps, ElementsAre(999, 666, 332));
  EXPECT_THAT(sampler.MakeSchedule(4).time_steps, ElementsAre(999, 749, 499, 249));
  EXPECT_THAT(sampler.MakeSchedule(4).sigmas, ElementsAre(FloatNear(14.61464F, 1e-4F), FloatNear(4.08173F, 1e-4F),
                                                          FloatNear(1.61289F, 1e-4F), FloatNear(0.69320F, 1e-4F), 0));
  EXPECT_THAT(sampler.AllTimeSteps(), ElementsAre(999, 749, 666, 499, 332, 249));
}

TEST(SamplerTest, LastStepReturnsTheCleanLatents) {
  const at::Tensor latents = at::full({4}, 3.0);
  const at::Tensor output = at::full({4}, 0.5);
  const Sampler noise_predictor = TurboSampler();
  const Schedule schedule = noise_predictor.MakeSchedule(1);
  const double sigma = schedule.sigmas[0];
  EXPECT_NEAR(noise_predictor.Step(latents, output, schedule, 0)[0].item<double>(), 3 - 0.5 * sigma, 1e-5);
  const double clean = 0.5 * -sigma / std::sqrt(sigma * sigma + 1) + 3 / (sigma * sigma + 1);
  EXPECT_NEAR(TurboSampler(Prediction::kVelocity).Step(latents, output, schedule, 0)[0].item<double>(), clean, 1e-5);
}

// torch.randn(4, 4, generator=torch.Generator("cpu").manual_seed(42)) begins so.
TEST(NoiseTest, IsThatOfPyTorch) {
  NoiseStream noise(42);
  const at::Tensor draw = noise.Draw({4, 4}).flatten();
  EXPECT_NEAR(draw[0].item<double>(), 1.9269153, 1e-6);
  EXPECT_NEAR(draw[1].item<double>(), 1.4872841, 1e-6);
  EXPECT_FALSE(at::equal(noise.Draw({4, 4}).flatten(), draw)) << "the stream goes on";
}

TEST(TextCacheTest, ForgetsTheEntryUsedLongestAgo) {
  TextCache cache(2);
  cache.Insert({1}, at::full({1}, 1.0));
  cache.Insert({2}, at::full({1}, 2.0));
  EXPECT_TRUE(cache.Find({1}).has_value());
  cache.Insert({3}, at::full({1}, 3.0));
  EXPECT_EQ(cache.size(), 2U);
  EXPECT_FALSE(cache.Find({2}).has_value());
  EXPECT_EQ(cache.Find({1})->item<double>(), 1.0);
  EXPECT_EQ(cache.Find({3})->item<double>(), 3.0);
  TextCache none(0);
  none.Insert({1}, at::full({1}, 1.0));
  EXPECT_EQ(none.size(), 0U);
}

// The cache's file is changed by hand to see whether it is read.
TEST(ModelDigestTest, LargeModelsAreHashedOnceUntilTheyChange) {
  TinyModelCopy copy;
  const std::string file = copy.folder() + "/unet/config.json";
  const std::vector<ModelFile> files = {{.name = "unet/config.json", .path = file}};
  const DigestCacheOptions cache{.folder = copy.folder() + "/cache", .bytes_min = 1};
  const auto first = CachedModelDigest(files, cache);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(*first, *ComputeModelDigest(files));
  const std::string planted = "sha256:" + std::string(64, 'a');
  for (const auto& entry : std::filesystem::directory_iterator(cache.folder + "/model_digests")) {
    std::ofstream(entry.path()) << planted << "\n";
  }
  EXPECT_THAT(CachedModelDigest(files, cache), IsOkAndHolds(planted));
  EXPECT_THAT(CachedModelDigest(files, {.folder = cache.folder}), IsOkAndHolds(*first)) << "too small to remember";
  std::ofstream(file, std::ios::app) << "\n";
  EXPECT_THAT(CachedModelDigest(files, cache), IsOkAndHolds(*ComputeModelDigest(files)));
}

}  // namespace
}  // namespace turbofleet::sd_turbo
