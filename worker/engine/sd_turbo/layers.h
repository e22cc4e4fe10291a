// The layers that all components are made of. Pictures are [1, channels, height, width] with the channels last in
// memory, sequences [1, positions, channels]. Layers are immutable and own their weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/engine/sd_turbo/weight_source.h"

namespace turbofleet::sd_turbo {

class Linear {
 public:
  struct Options {
    int64_t in = 0;
    int64_t out = 0;
    bool bias = true;
    bool stored_as_convolution = false;  // The file has [out, in, 1, 1].
  };
  Linear(const Weights& weights, const Options& options);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  at::Tensor weight_;
  at::Tensor bias_;
};

class Conv2d {
 public:
  struct Options {
    int64_t in = 0;
    int64_t out = 0;
    int64_t kernel = 3;
    int64_t stride = 1;
    int64_t padding = 1;
    bool bias = true;
  };
  Conv2d(const Weights& weights, const Options& options);
  at::Tensor operator()(const at::Tensor& x) const { return (*this)(x, bias_); }
  // With another bias in place of its own.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& bias) const;
  const at::Tensor& bias() const { return bias_; }

 private:
  at::Tensor weight_;
  at::Tensor bias_;
  int64_t stride_;
  int64_t padding_;
};

class GroupNorm {
 public:
  struct Options {
    int64_t channels = 0;
    int64_t groups = 32;
    double epsilon = 1e-5;
  };
  GroupNorm(const Weights& weights, const Options& options);
  at::Tensor operator()(const at::Tensor& x) const;
  // Followed by SiLU.
  at::Tensor WithSilu(const at::Tensor& x) const;

 private:
  at::Tensor weight_;
  at::Tensor bias_;
  Options options_;
};

class LayerNorm {
 public:
  LayerNorm(const Weights& weights, int64_t channels, double epsilon);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  at::Tensor weight_;
  at::Tensor bias_;
  double epsilon_;
};

// softmax(query key^T / sqrt(channels per head)) value, for each head. query: [1, S, C]; key, value: [1, T, C].
at::Tensor Attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, int64_t heads);

// The same where each position sees itself and those before it. REQUIRES: S == T.
at::Tensor CausalAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, int64_t heads);

// Nearest-neighbour scaling to the given size.
at::Tensor UpsampleNearest(const at::Tensor& x, int64_t height, int64_t width);

// The picture's pixels as a sequence, and back; neither copies.
at::Tensor PixelsToSequence(const at::Tensor& x);
at::Tensor SequenceToPixels(const at::Tensor& x, int64_t height, int64_t width);

}  // namespace turbofleet::sd_turbo
