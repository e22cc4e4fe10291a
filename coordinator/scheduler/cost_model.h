// How long images take: learnt from what deliveries report.
#pragma once

#include <cstdint>
#include <map>

#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace turbofleet {

// How fast a worker is, in proportion to the other workers of its model. Thread-compatible.
class WorkerSpeed {
 public:
  // Speeds are summed up, so they are integers: 1.0 is this many.
  static constexpr int64_t kUnit = 1'000'000;

  // `ratio`: what an image took, over what it would take a worker of speed 1.
  void Learn(double ratio);
  // How long it takes for what a worker of speed 1 does in `reference`.
  int64_t Nanoseconds(int64_t reference) const;
  int64_t units() const { return units_; }
  bool measured() const { return measured_; }

 private:
  double slowness_ = 1.0;
  int64_t units_ = kUnit;
  bool measured_ = false;
};

// The device time of one image by its shape, for one model. Thread-compatible.
class CostModel {
 public:
  static constexpr size_t kShapesMax = 1'024;

  // Nanoseconds for one image on a worker of speed 1, at least 1,000. A shape that was never measured is taken to be in
  // proportion to its pixels and steps, at the pace that the other shapes have shown.
  int64_t Predict(const BatchShape& shape) const;
  // Whether anything was measured, so that predictions are more than a guess.
  bool measured() const { return !shapes_.empty(); }

  // A worker took `time` for an image. Teaches both, the model and the worker's speed. Nothing if the time is unknown,
  // which is zero or less.
  void Learn(const BatchShape& shape, absl::Duration time, WorkerSpeed* speed);

 private:
  std::map<BatchShape, double> shapes_;  // Nanoseconds.
  double nanoseconds_per_unit_ = 20.0;   // Of a pixel and step: a first guess from a GPU of today.
};

}  // namespace turbofleet
