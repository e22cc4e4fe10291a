// The residual block of the UNet and of the VAE.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "worker/engine/sd_turbo/layers.h"

namespace turbofleet::sd_turbo {

// GroupNorm, SiLU, convolution, (time), GroupNorm, SiLU, convolution, plus the input. Immutable.
class ResnetBlock {
 public:
  struct Options {
    int64_t in = 0;
    int64_t out = 0;
    int64_t norm_groups = 32;
    double epsilon = 1e-6;
  };
  ResnetBlock(const Weights& weights, const Options& options);

  at::Tensor operator()(const at::Tensor& x) const { return (*this)(x, conv1_.bias()); }
  // With a bias of the first convolution that has the time embedding added to it.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& conv1_bias) const;

 private:
  GroupNorm norm1_;
  Conv2d conv1_;
  GroupNorm norm2_;
  Conv2d conv2_;
  std::optional<Conv2d> shortcut_;
};

}  // namespace turbofleet::sd_turbo
