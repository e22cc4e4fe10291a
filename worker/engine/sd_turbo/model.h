// A loaded diffusers folder.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/sd_turbo/config.h"
#include "worker/engine/sd_turbo/model_digest.h"
#include "worker/engine/sd_turbo/sampler.h"
#include "worker/engine/sd_turbo/text_encoder.h"
#include "worker/engine/sd_turbo/tiny_vae.h"
#include "worker/engine/sd_turbo/unet.h"
#include "worker/engine/sd_turbo/vae.h"
#include "worker/engine/tokenizer/clip_tokenizer.h"

namespace turbofleet::sd_turbo {

// Everything that pictures are made with. Immutable after loading.
struct Model {
  ModelConfig config;
  Placement placement;
  Sampler sampler;
  ClipTokenizer tokenizer;
  TextEncoder text_encoder;
  UNet unet;
  VaeEncoder vae_encoder;
  VaeDecoder vae_decoder;
  std::optional<TinyVae> tiny_vae;
  double tiny_scaling_factor = 1.0;
  std::vector<ModelFile> files;  // In the order of the digest.
};

struct ModelFolders {
  std::string model;
  std::string tiny_vae;  // Empty: `<model>/vae_tiny` if it exists.
};

// Errors as of MakeSdTurboEngine. May throw c10::Error when memory runs out.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const ModelFolders& folders, const Placement& placement);

}  // namespace turbofleet::sd_turbo
