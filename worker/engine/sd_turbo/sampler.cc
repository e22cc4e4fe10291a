#include "worker/engine/sd_turbo/sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

namespace turbofleet::sd_turbo {

Sampler::Sampler(const SamplerConfig& config) : config_(config) {
  const bool scaled = config.beta_schedule == BetaSchedule::kScaledLinear;
  const double start = scaled ? std::sqrt(config.beta_start) : config.beta_start;
  const double end = scaled ? std::sqrt(config.beta_end) : config.beta_end;
  at::Tensor betas = at::linspace(start, end, config.train_steps, at::kFloat);
  if (scaled) betas = betas.pow(2);
  const at::Tensor kept = at::cumprod(1.0 - betas, 0);
  const at::Tensor sigmas = ((1 - kept) / kept).pow(0.5).contiguous();
  train_sigmas_.assign(sigmas.const_data_ptr<float>(), sigmas.const_data_ptr<float>() + sigmas.numel());
}

Schedule Sampler::MakeSchedule(int steps) const {
  Schedule schedule;
  const auto train_steps = static_cast<double>(config_.train_steps);
  const double stride = train_steps / steps;
  for (int i = 0; i < steps; ++i) {
    const double time_step = std::nearbyint(train_steps - i * stride) - 1;  // Rounds halves to even.
    schedule.time_steps.push_back(time_step);
    schedule.sigmas.push_back(train_sigmas_[static_cast<size_t>(time_step)]);
  }
  schedule.sigmas.push_back(0.0F);
  return schedule;
}

std::vector<double> Sampler::AllTimeSteps() const {
  std::set<double, std::greater<>> all;
  for (int steps = 1; steps <= kStepsMax; ++steps) {
    const Schedule schedule = MakeSchedule(steps);
    all.insert(schedule.time_steps.begin(), schedule.time_steps.end());
  }
  return {all.begin(), all.end()};
}

at::Tensor Sampler::StartFromNoise(const at::Tensor& noise, const Schedule& schedule) {
  return noise * *std::max_element(schedule.sigmas.begin(), schedule.sigmas.end());
}

at::Tensor Sampler::StartFromPicture(const at::Tensor& latents, const at::Tensor& noise, const Schedule& schedule,
                                     int first_step) {
  return latents + noise * schedule.sigmas[static_cast<size_t>(first_step)];
}

at::Tensor Sampler::ScaleInput(const at::Tensor& latents, const Schedule& schedule, int step) {
  const float sigma = schedule.sigmas[static_cast<size_t>(step)];
  return latents / std::sqrt(sigma * sigma + 1.0F);
}

at::Tensor Sampler::Step(const at::Tensor& latents, const at::Tensor& output, const Schedule& schedule,
                         int step) const {
  const float sigma = schedule.sigmas[static_cast<size_t>(step)];
  const float next = schedule.sigmas[static_cast<size_t>(step) + 1];
  const float variance = sigma * sigma + 1.0F;
  const at::Tensor clean = config_.prediction == Prediction::kEpsilon
                               ? latents - output * sigma
                               : output * (-sigma / std::sqrt(variance)) + latents / variance;
  const at::Tensor slope = (latents - clean) / sigma;
  return latents + slope * (next - sigma);
}

}  // namespace turbofleet::sd_turbo
