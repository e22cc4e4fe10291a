// AutoencoderKL: pictures to latents and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "worker/engine/sd_turbo/config.h"
#include "worker/engine/sd_turbo/layers.h"
#include "worker/engine/sd_turbo/resnet_block.h"
#include "worker/engine/sd_turbo/stage_observer.h"

namespace turbofleet::sd_turbo {

// Two residual blocks around an attention of one head over all pixels. Immutable.
class VaeMiddle {
 public:
  VaeMiddle(const VaeConfig& config, const Weights& weights);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  struct PixelAttention {
    PixelAttention(const VaeConfig& config, const Weights& weights);
    at::Tensor operator()(const at::Tensor& x) const;

    GroupNorm norm;
    Linear query, key, value, out;
  };

  ResnetBlock first_;
  std::optional<PixelAttention> attention_;
  ResnetBlock second_;
};

// One resolution: residual blocks, then a change of size.
struct VaeLevel {
  std::vector<ResnetBlock> resnets;
  std::optional<Conv2d> resample;
};

// Immutable.
class VaeEncoder {
 public:
  VaeEncoder(const VaeConfig& config, const Weights& weights);
  // x: [1, 3, H, W] in [-1, 1]. Returns [1, 2 * latent_channels, H / 8, W / 8]: mean and log variance.
  at::Tensor operator()(const at::Tensor& x, const StageObserver& observer) const;

 private:
  Conv2d conv_in_;
  std::vector<VaeLevel> levels_;
  VaeMiddle middle_;
  GroupNorm norm_out_;
  Conv2d conv_out_;
  std::optional<Conv2d> quant_conv_;
};

// Immutable.
class VaeDecoder {
 public:
  VaeDecoder(const VaeConfig& config, const Weights& weights);
  // x: latents divided by the scaling factor, [1, latent_channels, h, w]. Returns [1, 3, 8 h, 8 w], about [-1, 1].
  at::Tensor operator()(const at::Tensor& x, const StageObserver& observer) const;

 private:
  std::optional<Conv2d> post_quant_conv_;
  Conv2d conv_in_;
  VaeMiddle middle_;
  std::vector<VaeLevel> levels_;
  GroupNorm norm_out_;
  Conv2d conv_out_;
};

}  // namespace turbofleet::sd_turbo
