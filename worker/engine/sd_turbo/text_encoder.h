// CLIPTextModel: token ids to the states that the UNet attends to.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/engine/sd_turbo/config.h"
#include "worker/engine/sd_turbo/layers.h"

namespace turbofleet::sd_turbo {

// Immutable.
class TextEncoder {
 public:
  TextEncoder(const TextConfig& config, const Weights& weights);

  // The last hidden state after the final norm: [1, ids, hidden_size].
  // REQUIRES: at most positions_max ids, each in [0, vocab_size).
  at::Tensor operator()(const std::vector<int64_t>& ids) const;

 private:
  struct Layer {
    Layer(const TextConfig& config, const Weights& weights);
    at::Tensor operator()(const at::Tensor& x, const TextConfig& config) const;

    LayerNorm norm1;
    Linear query, key, value, out;
    LayerNorm norm2;
    Linear up, down;
  };

  TextConfig config_;
  at::Tensor tokens_;
  at::Tensor positions_;
  std::vector<Layer> layers_;
  LayerNorm final_norm_;
};

}  // namespace turbofleet::sd_turbo
