// The architecture of SD-Turbo in full size, with weights that both sides draw from the tensors' names (see
// MakeRandomWeightSource), so that no gigabytes have to be kept. One component at a time, to bound the memory.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/golden/budgets.h"
#include "tests/golden/golden.h"
#include "tests/support/status_matchers.h"
#include "worker/engine/sd_turbo/config.h"
#include "worker/engine/sd_turbo/noise.h"
#include "worker/engine/sd_turbo/sampler.h"
#include "worker/engine/sd_turbo/text_encoder.h"
#include "worker/engine/sd_turbo/tiny_vae.h"
#include "worker/engine/sd_turbo/unet.h"
#include "worker/engine/sd_turbo/vae.h"
#include "worker/engine/sd_turbo/weight_source.h"

namespace turbofleet::sd_turbo {
namespace {

Placement PlacementOf(Precision precision) {
  return {.device = at::kCPU, .dtype = precision == Precision::kFloat32 ? at::kFloat : at::kBFloat16};
}

std::string ConfigPath(const std::string& part) { return GoldenPath("sd_turbo_full/" + part + "/config.json"); }

RgbImage ToRgb(const at::Tensor& picture) {
  const at::Tensor bytes = picture.to(at::kFloat).mul(0.5).add(0.5).clamp(0, 1).mul(255).round();
  const at::Tensor rows = bytes.permute({0, 2, 3, 1}).to(at::kByte).contiguous();
  RgbImage image{.width = static_cast<int>(rows.size(2)), .height = static_cast<int>(rows.size(1)), .pixels = {}};
  image.pixels.assign(rows.const_data_ptr<uint8_t>(), rows.const_data_ptr<uint8_t>() + rows.numel());
  return image;
}

class FullSizeTest : public ::testing::TestWithParam<Precision> {
 protected:
  void Expect(const std::string& entry, const std::string& stage, const at::Tensor& result) {
    const StageError error = goldens_.Compare(entry, result);
    std::printf("%-36s largest %.2e  mean %.2e\n", entry.c_str(), error.largest, error.mean_shift);
    EXPECT_LE(error.largest, BudgetOf(stage, GetParam()).largest) << entry;
    EXPECT_LE(error.mean_shift, BudgetOf(stage, GetParam()).mean_shift) << entry;
  }

  void ExpectPicture(const std::string& entry, const at::Tensor& picture) {
    const double psnr = goldens_.Psnr(entry, ToRgb(picture));
    std::printf("%-36s %.1f dB\n", entry.c_str(), psnr);
    EXPECT_GE(psnr, PsnrMin(GetParam())) << entry;
  }

  // Compares those stages of one picture that are in the goldens, each the first time it comes.
  StageObserver Observer(const std::string& name) {
    return [this, name](const std::string& stage, const at::Tensor& result) {
      const std::string entry = name + "/" + stage;
      if (goldens_.Has(entry) && seen_.insert(entry).second) Expect(entry, stage, result);
    };
  }

  // The sampler's loop as the pipeline runs it; ends with the latents.
  at::Tensor Sample(const UNet& unet, const Sampler& sampler, const std::string& name, int height, int width,
                    int steps) {
    const Schedule schedule = sampler.MakeSchedule(steps);
    const std::vector<double> times = sampler.AllTimeSteps();
    NoiseStream context_noise(0x7F1E57);
    const at::Tensor context = context_noise.Draw({1, 77, 1024}).to(PlacementOf(GetParam()).dtype);
    NoiseStream noise(static_cast<uint32_t>(height + width));
    at::Tensor latents = Sampler::StartFromNoise(noise.Draw({1, 4, height / 8, width / 8}), schedule);
    for (int step = 0; step < steps; ++step) {
      const auto index = static_cast<size_t>(
          std::find(times.begin(), times.end(), schedule.time_steps[static_cast<size_t>(step)]) - times.begin());
      const at::Tensor input = Sampler::ScaleInput(latents, schedule, step).to(PlacementOf(GetParam()).dtype);
      latents = sampler.Step(latents, unet(input, index, context, Observer(name)), schedule, step);
      Observer(name)("latents." + std::to_string(step), latents);
    }
    return latents;
  }

  const c10::InferenceMode no_gradients_;
  const Goldens goldens_{"full"};
  std::set<std::string> seen_;
};

TEST_P(FullSizeTest, TextEncoderEqualsTransformers) {
  const auto config = ReadTextConfig(ConfigPath("text_encoder"));
  TURBOFLEET_ASSERT_OK(config);
  const std::unique_ptr<WeightSource> source = MakeRandomWeightSource(Component::kTextEncoder);
  WeightLoader loader(source.get(), PlacementOf(GetParam()));
  const TextEncoder encoder(*config, Weights(&loader));
  std::vector<int64_t> ids = {49406};
  for (int64_t i = 0; i < 8; ++i) ids.push_back((i * 7919 + 320) % 49400);
  ids.push_back(49407);
  ids.resize(77, 0);
  Expect("text.states", "text.states", encoder(ids));
}

TEST_P(FullSizeTest, UNetAndDecodersEqualDiffusers) {
  const auto unet_config = ReadUNetConfig(ConfigPath("unet"));
  const auto vae_config = ReadVaeConfig(ConfigPath("vae"));
  const auto sampler_config = ReadSamplerConfig(GoldenPath("sd_turbo_full/scheduler/scheduler_config.json"));
  TURBOFLEET_ASSERT_OK(unet_config);
  TURBOFLEET_ASSERT_OK(vae_config);
  TURBOFLEET_ASSERT_OK(sampler_config);
  const Sampler sampler(*sampler_config);
  const std::unique_ptr<WeightSource> source = MakeRandomWeightSource(Component::kUNet);
  WeightLoader loader(source.get(), PlacementOf(GetParam()));
  at::Tensor square, wide;
  {
    const UNet unet(*unet_config, Weights(&loader), sampler.AllTimeSteps());
    square = Sample(unet, sampler, "square", 64, 64, 2);
    wide = Sample(unet, sampler, "wide", 64, 104, 1);
  }
  const std::unique_ptr<WeightSource> vae_source = MakeRandomWeightSource(Component::kVae);
  WeightLoader vae_loader(vae_source.get(), PlacementOf(GetParam()));
  const VaeDecoder decoder(*vae_config, Weights(&vae_loader));
  const auto dtype = PlacementOf(GetParam()).dtype;
  ExpectPicture("square/picture.rgb", decoder((square / 0.18215).to(dtype), Observer("square")));
  ExpectPicture("wide/picture.rgb", decoder((wide / 0.18215).to(dtype), Observer("wide")));

  const auto tiny_config = ReadTinyVaeConfig(ConfigPath("vae_tiny"));
  TURBOFLEET_ASSERT_OK(tiny_config);
  const std::unique_ptr<WeightSource> tiny_source = MakeRandomWeightSource(Component::kTinyVae);
  WeightLoader tiny_loader(tiny_source.get(), PlacementOf(GetParam()));
  const TinyVae tiny(*tiny_config, Weights(&tiny_loader));
  ExpectPicture("square/tiny.picture.rgb", tiny.Decode(square.to(dtype)));
}

TEST_P(FullSizeTest, EncodersEqualDiffusers) {
  const auto vae_config = ReadVaeConfig(ConfigPath("vae"));
  const auto tiny_config = ReadTinyVaeConfig(ConfigPath("vae_tiny"));
  TURBOFLEET_ASSERT_OK(vae_config);
  TURBOFLEET_ASSERT_OK(tiny_config);
  const RgbImage picture = StartPicture(104, 64);
  const at::Tensor input = at::tensor(at::ArrayRef<uint8_t>(picture.pixels), at::kByte)
                               .view({1, 64, 104, 3})
                               .permute({0, 3, 1, 2})
                               .to(at::kFloat)
                               .div(255)
                               .mul(2)
                               .sub(1)
                               .to(PlacementOf(GetParam()).dtype);
  const std::unique_ptr<WeightSource> vae_source = MakeRandomWeightSource(Component::kVae);
  WeightLoader vae_loader(vae_source.get(), PlacementOf(GetParam()));
  VaeEncoder(*vae_config, Weights(&vae_loader))(input, Observer("wide"));
  EXPECT_TRUE(seen_.contains("wide/vae.moments"));
  const std::unique_ptr<WeightSource> tiny_source = MakeRandomWeightSource(Component::kTinyVae);
  WeightLoader tiny_loader(tiny_source.get(), PlacementOf(GetParam()));
  Expect("wide/tiny.latents", "vae.moments", TinyVae(*tiny_config, Weights(&tiny_loader)).Encode(input));
}

INSTANTIATE_TEST_SUITE_P(Precision, FullSizeTest, ::testing::Values(Precision::kFloat32, Precision::kBfloat16),
                         [](const auto& info) { return info.param == Precision::kFloat32 ? "float32" : "bfloat16"; });

}  // namespace
}  // namespace turbofleet::sd_turbo
