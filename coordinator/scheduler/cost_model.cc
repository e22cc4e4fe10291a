#include "coordinator/scheduler/cost_model.h"

#include <algorithm>
#include <cmath>

namespace turbofleet {
namespace {

// How much of a new measurement goes into the mean. Deliveries come by the image, so a batch counts several times.
constexpr double kShapeGain = 0.02;
constexpr double kSpeedGain = 0.1;
constexpr double kSlownessMax = 1'000.0;

// A step and the decoding take about equally long per pixel.
double UnitsOf(const BatchShape& shape) {
  return static_cast<double>(shape.width) * shape.height * (shape.steps - shape.first_step + 1);
}

}  // namespace

void WorkerSpeed::Learn(double ratio) {
  slowness_ = measured_ ? slowness_ + kSpeedGain * (ratio - slowness_) : ratio;
  slowness_ = std::clamp(slowness_, 1.0 / kSlownessMax, kSlownessMax);
  units_ = std::llround(static_cast<double>(kUnit) / slowness_);
  measured_ = true;
}

int64_t WorkerSpeed::Nanoseconds(int64_t reference) const {
  return std::max<int64_t>(1, std::llround(static_cast<double>(reference) * slowness_));
}

int64_t CostModel::Predict(const BatchShape& shape) const {
  const auto found = shapes_.find(shape);
  const double nanoseconds = found != shapes_.end() ? found->second : UnitsOf(shape) * nanoseconds_per_unit_;
  return std::max<int64_t>(1'000, std::llround(nanoseconds));
}

void CostModel::Learn(const BatchShape& shape, absl::Duration time, WorkerSpeed* speed) {
  if (time <= absl::ZeroDuration() || time == absl::InfiniteDuration()) return;
  const auto nanoseconds = static_cast<double>(absl::ToInt64Nanoseconds(time));
  const double at_speed_1 = nanoseconds * static_cast<double>(speed->units()) / WorkerSpeed::kUnit;
  const bool first = shapes_.empty();
  if (shapes_.size() >= kShapesMax && !shapes_.contains(shape)) shapes_.erase(shapes_.begin());
  const auto [known, is_new] = shapes_.try_emplace(shape, at_speed_1);
  // From a worker that nobody knows yet, a known shape tells of the worker.
  if (!is_new && speed->measured()) known->second += kShapeGain * (at_speed_1 - known->second);
  const double pace = known->second / std::max(1.0, UnitsOf(shape));
  nanoseconds_per_unit_ = first ? pace : nanoseconds_per_unit_ + kShapeGain * (pace - nanoseconds_per_unit_);
  speed->Learn(nanoseconds / std::max(1.0, known->second));
}

}  // namespace turbofleet
