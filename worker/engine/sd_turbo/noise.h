// The Gaussian noise of one image, as torch.Generator("cpu").manual_seed(seed) gives it in Python.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace turbofleet::sd_turbo {

// Draws follow one another in one stream. Thread-compatible.
class NoiseStream {
 public:
  explicit NoiseStream(uint32_t seed);
  // A float32 tensor on the CPU, whatever the precision and device of the engine, since draws of other precisions are
  // another stream.
  at::Tensor Draw(at::IntArrayRef shape);

 private:
  at::Generator generator_;
};

}  // namespace turbofleet::sd_turbo
