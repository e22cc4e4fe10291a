// UNet2DConditionModel: predicts what the sampler takes away.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "worker/engine/sd_turbo/config.h"
#include "worker/engine/sd_turbo/layers.h"
#include "worker/engine/sd_turbo/resnet_block.h"
#include "worker/engine/sd_turbo/stage_observer.h"
#include "worker/engine/sd_turbo/transformer.h"

namespace turbofleet::sd_turbo {

// Immutable. With 1 to 4 steps only six time steps occur, so what the time embedding adds to each residual block is
// computed when the model is loaded, in float32, and added to a bias that is there anyway.
class UNet {
 public:
  UNet(const UNetConfig& config, const Weights& weights, const std::vector<double>& time_steps);

  // latents: [1, latent_channels, h, w] in the placement's precision; time_step: a position in the constructor's list;
  // context: the text states. The result has the shape of the latents and is float32: the first sampler step takes
  // 15 times the result from latents of about the same size, so its rounding would be the picture's largest error.
  at::Tensor operator()(const at::Tensor& latents, size_t time_step, const at::Tensor& context,
                        const StageObserver& observer) const;

 private:
  struct TimedResnet {
    ResnetBlock block;
    std::vector<at::Tensor> biases;  // Of its first convolution, by time step.
  };
  struct Level {
    std::vector<TimedResnet> resnets;
    std::vector<Transformer> attentions;  // One after each resnet, or none.
    std::optional<Conv2d> resample;       // To the next level.
  };
  class Builder;

  static at::Tensor RunPair(const Level& level, size_t index, const at::Tensor& x, size_t time_step,
                            const at::Tensor& context);

  std::optional<Conv2d> conv_in_;
  std::vector<Level> down_;
  Level middle_;  // Two resnets around one attention.
  std::vector<Level> up_;
  std::optional<GroupNorm> norm_out_;
  std::optional<Conv2d> conv_out_;
};

}  // namespace turbofleet::sd_turbo
