#include "worker/engine/sd_turbo/resnet_block.h"

#include <ATen/ATen.h>

namespace turbofleet::sd_turbo {

ResnetBlock::ResnetBlock(const Weights& weights, const Options& options)
    : norm1_(weights.Sub("norm1"), {.channels = options.in, .groups = options.norm_groups, .epsilon = options.epsilon}),
      conv1_(weights.Sub("conv1"), {.in = options.in, .out = options.out}),
      norm2_(weights.Sub("norm2"),
             {.channels = options.out, .groups = options.norm_groups, .epsilon = options.epsilon}),
      conv2_(weights.Sub("conv2"), {.in = options.out, .out = options.out}) {
  if (options.in != options.out) {
    shortcut_.emplace(weights.Sub("conv_shortcut"),
                      Conv2d::Options{.in = options.in, .out = options.out, .kernel = 1, .padding = 0});
  }
}

at::Tensor ResnetBlock::operator()(const at::Tensor& x, const at::Tensor& conv1_bias) const {
  at::Tensor hidden = conv2_(norm2_.WithSilu(conv1_(norm1_.WithSilu(x), conv1_bias)));
  return hidden.add_(shortcut_.has_value() ? (*shortcut_)(x) : x);
}

}  // namespace turbofleet::sd_turbo
