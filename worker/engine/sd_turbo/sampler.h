// The Euler discrete sampler with trailing time steps.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/engine/sd_turbo/config.h"

namespace turbofleet::sd_turbo {

constexpr int kStepsMax = 4;

// The steps of one schedule, from the noisiest on.
struct Schedule {
  std::vector<double> time_steps;
  std::vector<float> sigmas;  // One more than time_steps; the last is 0.
};

// Latents and all arithmetic on them are float32. Immutable.
class Sampler {
 public:
  explicit Sampler(const SamplerConfig& config);

  // REQUIRES: 1 <= steps <= kStepsMax.
  Schedule MakeSchedule(int steps) const;
  // The time steps that occur in any schedule, each once, in falling order.
  std::vector<double> AllTimeSteps() const;

  // The pure noise that text-to-image starts from.
  static at::Tensor StartFromNoise(const at::Tensor& noise, const Schedule& schedule);
  // Image-to-image: the picture's latents with the noise of step `first_step`.
  static at::Tensor StartFromPicture(const at::Tensor& latents, const at::Tensor& noise, const Schedule& schedule,
                                     int first_step);
  // What the UNet gets to see.
  static at::Tensor ScaleInput(const at::Tensor& latents, const Schedule& schedule, int step);
  // The latents after a step, from those before it and the UNet's answer.
  at::Tensor Step(const at::Tensor& latents, const at::Tensor& output, const Schedule& schedule, int step) const;

 private:
  SamplerConfig config_;
  std::vector<float> train_sigmas_;  // By training step.
};

}  // namespace turbofleet::sd_turbo
