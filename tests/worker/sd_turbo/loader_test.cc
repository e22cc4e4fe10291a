// A folder that cannot be run as it says is refused, and the message names what is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/status_matchers.h"
#include "tests/worker/sd_turbo/tiny_model.h"
#include "worker/engine/sd_turbo/sd_turbo_engine.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<std::unique_ptr<Engine>> Load(const std::string& folder) {
  SdTurboOptions options;
  options.model_dir = folder;
  options.precision = "float32";
  return MakeSdTurboEngine(options);
}

TEST(SdTurboLoaderTest, TellsWhatTheModelIs) {
  const auto engine = Load(TinyModel());
  ASSERT_THAT(engine, IsOk());
  const EngineInfo& info = (*engine)->Info();
  EXPECT_EQ(info.model_name, "tiny_model");
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.precision, "float32");
  EXPECT_EQ(info.default_width, 64);
  EXPECT_EQ(info.default_height, 64);
  EXPECT_EQ(info.size_max, 1024);
  EXPECT_TRUE(info.has_tiny_vae);
  EXPECT_THAT(info.model_digest, ::testing::MatchesRegex("sha256:[0-9a-f]{64}"));
}

TEST(SdTurboLoaderTest, AFolderCalledModelIsNamedAfterTheOneAroundIt) {
  TinyModelCopy copy;
  const std::filesystem::path inner = std::filesystem::path(copy.folder()) / "my_net" / "model";
  std::filesystem::create_directories(inner.parent_path());
  std::filesystem::copy(TinyModel(), inner, std::filesystem::copy_options::recursive);
  const auto engine = Load(inner.string() + "/");
  ASSERT_THAT(engine, IsOk());
  EXPECT_EQ((*engine)->Info().model_name, "my_net");
}

TEST(SdTurboLoaderTest, NamesAMissingTensor) {
  TinyModelCopy copy;
  copy.EditTensors("unet", [](auto& tensors) { tensors.erase("mid_block.resnets.0.conv1.weight"); });
  EXPECT_THAT(Load(copy.folder()), StatusIs(kInvalid, HasSubstr("unet: tensor mid_block.resnets.0.conv1.weight")));
}

TEST(SdTurboLoaderTest, NamesAnExtraTensor) {
  TinyModelCopy copy;
  copy.EditTensors("vae", [](auto& tensors) { tensors["decoder.extra.bias"] = {{2}, std::string(4, '\0')}; });
  EXPECT_THAT(Load(copy.folder()), StatusIs(kInvalid, AllOf(HasSubstr("vae"), HasSubstr("decoder.extra.bias"))));
}

TEST(SdTurboLoaderTest, NamesAMisshapenTensorWithBothShapes) {
  TinyModelCopy copy;
  copy.EditTensors("text_encoder", [](auto& tensors) {
    auto& tensor = tensors.at("final_layer_norm.weight");
    tensor.shape = {4, 4};
  });
  EXPECT_THAT(Load(copy.folder()),
              StatusIs(kInvalid, AllOf(HasSubstr("final_layer_norm.weight"), HasSubstr("[4, 4]"), HasSubstr("[16]"))));
}

// Checkpoints of transformers 4 prefix every name and carry a buffer; those of 2022 store attention as convolutions.
TEST(SdTurboLoaderTest, ReadsTheNamesOfOlderFiles) {
  TinyModelCopy copy;
  copy.EditTensors("text_encoder", [](auto& tensors) {
    std::remove_reference_t<decltype(tensors)> old;
    for (auto& [name, tensor] : tensors) old["text_model." + name] = tensor;
    old["text_model.embeddings.position_ids"] = {{1, 77}, std::string(154, '\0')};
    tensors = std::move(old);
  });
  copy.EditTensors("vae", [](auto& tensors) {
    tensors.at("encoder.mid_block.attentions.0.query.weight").shape = {16, 16, 1, 1};
    tensors.at("decoder.mid_block.attentions.0.proj_attn.weight").shape = {16, 16, 1, 1};
  });
  EXPECT_THAT(Load(copy.folder()), IsOk());
}

TEST(SdTurboLoaderTest, RefusesATensorUnderTwoNames) {
  TinyModelCopy copy;
  copy.EditTensors("vae", [](auto& tensors) {
    tensors["encoder.mid_block.attentions.0.to_q.bias"] = tensors.at("encoder.mid_block.attentions.0.query.bias");
  });
  EXPECT_THAT(Load(copy.folder()), StatusIs(kInvalid, HasSubstr("under two names")));
}

TEST(SdTurboLoaderTest, NamesAMissingFile) {
  TinyModelCopy copy;
  std::filesystem::remove(copy.folder() + "/unet/config.json");
  EXPECT_THAT(Load(copy.folder()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("unet/config.json")));
}

TEST(SdTurboLoaderTest, RefusesConfigsItCannotHonour) {
  const struct {
    const char* file;
    const char* key;
    nlohmann::json value;
  } kCases[] = {
      {"model_index.json", "scheduler", {"diffusers", "PNDMScheduler"}},
      {"model_index.json", "_class_name", "StableDiffusionXLPipeline"},
      {"scheduler/scheduler_config.json", "_class_name", "EulerAncestralDiscreteScheduler"},
      {"scheduler/scheduler_config.json", "timestep_spacing", "leading"},
      {"scheduler/scheduler_config.json", "use_karras_sigmas", true},
      {"scheduler/scheduler_config.json", "prediction_type", "sample"},
      {"text_encoder/config.json", "hidden_act", "relu"},
      {"text_encoder/config.json", "num_attention_heads", 3},
      {"text_encoder/config.json", "hidden_size", "16"},
      {"unet/config.json", "down_block_types", {"CrossAttnDownBlock2D", "Down", "DownBlock2D", "DownBlock2D"}},
      {"unet/config.json", "class_embed_type", "timestep"},
      {"unet/config.json", "cross_attention_dim", 24},
      {"unet/config.json", "block_out_channels", {8, 16, 16}},
      {"unet/config.json", "block_out_channels", {8, 16, 16, -16}},
      {"unet/config.json", "some_new_key", 1},
      {"unet/config.json", "norm_eps", nlohmann::json::array()},
      {"vae/config.json", "latents_mean", {0.1, 0.1, 0.1, 0.1}},
      {"vae/config.json", "act_fn", "mish"},
      {"vae/config.json", "norm_num_groups", 3},
      {"vae_tiny/config.json", "act_fn", "gelu"},
  };
  for (const auto& spoilt : kCases) {
    TinyModelCopy copy;
    copy.EditJson(spoilt.file, [&](nlohmann::json& json) { json[spoilt.key] = spoilt.value; });
    EXPECT_THAT(Load(copy.folder()), StatusIs(kInvalid, AllOf(HasSubstr(spoilt.file), HasSubstr(spoilt.key))));
  }
}

TEST(SdTurboLoaderTest, RefusesOptionsItCannotHonour) {
  const auto with = [](auto change) {
    SdTurboOptions options;
    options.model_dir = TinyModel();
    change(options);
    return MakeSdTurboEngine(options).status();
  };
  EXPECT_THAT(with([](auto& o) { o.device = "gpu"; }), StatusIs(kInvalid, HasSubstr("device")));
  EXPECT_THAT(with([](auto& o) { o.device = "cuda:999999"; }), StatusIs(kInvalid, HasSubstr("device")));
  EXPECT_THAT(with([](auto& o) { o.precision = "int8"; }), StatusIs(kInvalid, HasSubstr("precision")));
  EXPECT_THAT(with([](auto& o) { o.precision = "float16"; }), StatusIs(kInvalid, HasSubstr("GPU")));
  EXPECT_THAT(with([](auto& o) { o.threads = -1; }), StatusIs(kInvalid, HasSubstr("threads")));
  EXPECT_THAT(with([](auto& o) { o.batch_images_max = 0; }), StatusIs(kInvalid, HasSubstr("batch_images_max")));
  EXPECT_THAT(with([](auto& o) { o.tiny_vae_dir = "/nonexistent"; }), StatusIs(absl::StatusCode::kNotFound));
}

// The digest names what pictures depend on, wherever it lies.
TEST(SdTurboLoaderTest, DigestFollowsTheContentsAndNotTheFolder) {
  TinyModelCopy copy;
  const std::string here = (*Load(TinyModel()))->Info().model_digest;
  EXPECT_EQ((*Load(copy.folder()))->Info().model_digest, here);
  copy.EditTensors("unet", [](auto& tensors) { tensors.at("conv_in.bias").bytes[0] ^= 1; });
  const std::string changed = (*Load(copy.folder()))->Info().model_digest;
  EXPECT_NE(changed, here);
  copy.EditJson("vae/config.json", [](nlohmann::json& json) { json["scaling_factor"] = 0.21; });
  EXPECT_NE((*Load(copy.folder()))->Info().model_digest, changed);
}

}  // namespace
}  // namespace turbofleet
