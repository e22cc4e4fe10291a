// The names that tensors have had in files over the years, turned into those of today.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/weights/safetensors.h"

namespace turbofleet::sd_turbo {

enum class Component { kTextEncoder, kUNet, kVae, kTinyVae };

// "text_encoder", "unet", "vae" or "vae_tiny": the component's folder, and what messages call it.
std::string ComponentName(Component component);

// The tensors by today's names. The text encoder's lose their `text_model.` prefix (transformers 5 writes none) and the
// buffer `embeddings.position_ids`; the VAE's attention changes `query`, `key`, `value` and `proj_attn` into `to_q`,
// `to_k`, `to_v` and `to_out.0`, and 1x1 convolutions there become matrices. INVALID_ARGUMENT: two tensors of a file
// have the same name afterwards.
absl::StatusOr<std::map<std::string, TensorView>> CanonicalNames(Component component,
                                                                 const std::map<std::string, TensorView>& tensors);

}  // namespace turbofleet::sd_turbo
