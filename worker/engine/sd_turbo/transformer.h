// The attention of the UNet: pixels attend to one another and to the text.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/engine/sd_turbo/layers.h"

namespace turbofleet::sd_turbo {

// diffusers' Transformer2DModel. Immutable.
class Transformer {
 public:
  struct Options {
    int64_t channels = 0;
    int64_t heads = 1;
    int64_t context_channels = 0;
    int64_t blocks = 1;
    int64_t norm_groups = 32;
    bool linear_projection = false;
  };
  Transformer(const Weights& weights, const Options& options);

  // x: a picture; context: [1, tokens, context_channels].
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& context) const;

 private:
  struct CrossAttention {
    CrossAttention(const Weights& weights, const Options& options, int64_t context_channels);
    at::Tensor operator()(const at::Tensor& x, const at::Tensor& context) const;

    int64_t heads;
    Linear query, key, value, out;
  };
  struct Block {
    Block(const Weights& weights, const Options& options);
    at::Tensor operator()(const at::Tensor& x, const at::Tensor& context) const;

    LayerNorm norm1;
    CrossAttention self_attention;
    LayerNorm norm2;
    CrossAttention text_attention;
    LayerNorm norm3;
    Linear up, down;
  };

  GroupNorm norm_;
  Linear in_;
  std::vector<Block> blocks_;
  Linear out_;
};

}  // namespace turbofleet::sd_turbo
