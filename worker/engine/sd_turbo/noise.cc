#include "worker/engine/sd_turbo/noise.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace turbofleet::sd_turbo {

NoiseStream::NoiseStream(uint32_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}

at::Tensor NoiseStream::Draw(at::IntArrayRef shape) {
  return at::randn(shape, generator_, at::TensorOptions().dtype(at::kFloat).device(at::kCPU));
}

}  // namespace turbofleet::sd_turbo
