// How often something happens, lately.
#pragma once

#include <algorithm>
#include <cmath>

#include "absl/time/time.h"

namespace turbofleet {

// Counts events with a weight that fades over about a minute. Thread-compatible.
class RateMeter {
 public:
  explicit RateMeter(absl::Time start) : start_(start), last_(start) {}

  void Add(absl::Time now) {
    weight_ = Faded(now) + 1.0;
    last_ = now;
  }

  // Events per second. While the meter is young it looks back to its start only.
  double PerSecond(absl::Time now) const {
    const double age_s = absl::ToDoubleSeconds(now - start_);
    const double window_s = kWindowS * (1.0 - std::exp(-age_s / kWindowS));
    return Faded(now) / std::max(window_s, 1.0);
  }

 private:
  static constexpr double kWindowS = 60.0;

  double Faded(absl::Time now) const { return weight_ * std::exp(-absl::ToDoubleSeconds(now - last_) / kWindowS); }

  const absl::Time start_;
  absl::Time last_;
  double weight_ = 0.0;
};

}  // namespace turbofleet
