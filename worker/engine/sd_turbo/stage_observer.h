// Lets tests see what happens between the stages of a picture.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

namespace turbofleet::sd_turbo {

// Called with a stage's name, such as "unet.down_blocks.0", and its result, which must not be changed. May be empty.
using StageObserver = std::function<void(const std::string& stage, const at::Tensor& result)>;

inline void Observe(const StageObserver& observer, const std::string& stage, const at::Tensor& result) {
  if (observer) observer(stage, result);
}

}  // namespace turbofleet::sd_turbo
