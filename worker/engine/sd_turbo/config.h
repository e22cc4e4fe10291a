// What the JSON files of a diffusers folder say. A key that is absent has the default of diffusers' class; a value that
// this engine cannot honour is an error, never ignored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet::sd_turbo {

enum class TextActivation { kGelu, kQuickGelu };

// CLIPTextModel.
struct TextConfig {
  int64_t vocab_size = 49408;
  int64_t hidden_size = 512;
  int64_t intermediate_size = 2048;
  int64_t layers = 12;
  int64_t heads = 8;
  int64_t positions_max = 77;
  double layer_norm_eps = 1e-5;
  TextActivation activation = TextActivation::kQuickGelu;
};

// One level of the UNet, from the finest down. The way up mirrors the way down.
struct UNetLevel {
  int64_t channels = 0;
  int64_t layers = 2;        // Residual blocks on the way down; one more on the way up.
  int64_t heads = 8;         // diffusers stores it as attention_head_dim.
  int64_t transformers = 1;  // Transformer blocks in each attention.
  int64_t context_channels = 1280;
  bool down_attention = true;
  bool up_attention = true;
};

// UNet2DConditionModel.
struct UNetConfig {
  int64_t sample_size = 64;  // Latent pixels of the default picture.
  int64_t latent_channels = 4;
  int64_t time_channels = 0;  // Of the time embedding.
  int64_t norm_groups = 32;
  double norm_eps = 1e-5;
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  bool linear_projection = false;  // Only says how proj_in and proj_out are stored.
  std::vector<UNetLevel> levels;
};

// AutoencoderKL.
struct VaeConfig {
  int64_t latent_channels = 4;
  int64_t norm_groups = 32;
  int64_t layers = 1;             // Residual blocks per level of the encoder; one more in the decoder.
  std::vector<int64_t> channels;  // By level, from the finest down.
  double scaling_factor = 0.18215;
  bool quant_conv = true;
  bool post_quant_conv = true;
  bool mid_attention = true;
};

// AutoencoderTiny.
struct TinyVaeConfig {
  int64_t latent_channels = 4;
  std::vector<int64_t> encoder_channels;
  std::vector<int64_t> decoder_channels;
  std::vector<int64_t> encoder_blocks;  // Residual blocks by level.
  std::vector<int64_t> decoder_blocks;
  double scaling_factor = 1.0;
};

enum class BetaSchedule { kLinear, kScaledLinear };
enum class Prediction { kEpsilon, kVelocity };

// EulerDiscreteScheduler with trailing time steps.
struct SamplerConfig {
  int64_t train_steps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  Prediction prediction = Prediction::kEpsilon;
};

// Each reads one component's file. INVALID_ARGUMENT names the file and the key; NOT_FOUND the file.
absl::StatusOr<TextConfig> ReadTextConfig(const std::string& path);
absl::StatusOr<UNetConfig> ReadUNetConfig(const std::string& path);
absl::StatusOr<VaeConfig> ReadVaeConfig(const std::string& path);
absl::StatusOr<TinyVaeConfig> ReadTinyVaeConfig(const std::string& path);
absl::StatusOr<SamplerConfig> ReadSamplerConfig(const std::string& path);

// Checks that model_index.json names the classes that this engine implements.
absl::Status CheckModelIndex(const std::string& path);

// The configs of a whole model, which must fit together.
struct ModelConfig {
  TextConfig text;
  UNetConfig unet;
  VaeConfig vae;
  SamplerConfig sampler;
};

// Reads the configs of the folder and checks that the components fit together.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

}  // namespace turbofleet::sd_turbo
