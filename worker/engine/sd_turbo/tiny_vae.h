// AutoencoderTiny (TAESD): a small stand-in for the VAE, of plain convolutions.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "worker/engine/sd_turbo/config.h"
#include "worker/engine/sd_turbo/layers.h"

namespace turbofleet::sd_turbo {

// Immutable.
class TinyVae {
 public:
  TinyVae(const TinyVaeConfig& config, const Weights& weights);

  // [1, 3, H, W] in [-1, 1] to [1, latent_channels, H / 8, W / 8].
  at::Tensor Encode(const at::Tensor& picture) const;
  // Latents divided by the scaling factor to [1, 3, 8 h, 8 w], about [-1, 1].
  at::Tensor Decode(const at::Tensor& latents) const;

 private:
  struct Block {
    Block(const Weights& weights, int64_t channels);
    at::Tensor operator()(const at::Tensor& x) const;

    Conv2d first, second, third;
  };
  // A convolution and the blocks after it (encoder) or before it (decoder).
  struct Stage {
    std::vector<Block> blocks;
    Conv2d convolution;
  };

  void BuildEncoder(const TinyVaeConfig& config, const Weights& weights);
  void BuildDecoder(const TinyVaeConfig& config, const Weights& weights);

  std::vector<Stage> encoder_;
  std::vector<Stage> decoder_;
  std::vector<Conv2d> ends_;  // The encoder's last convolution and the decoder's first.
};

}  // namespace turbofleet::sd_turbo
