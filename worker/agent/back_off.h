// How long to wait before the next try.
#pragma once

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/time/time.h"

namespace turbofleet {

// Doubles from `first` to `longest`; each delay is drawn from the upper half, so that a thousand workers that lost
// their coordinator together do not return together. Thread-compatible.
class BackOff {
 public:
  struct Options {
    absl::Duration first = absl::Milliseconds(100);
    absl::Duration longest = absl::Seconds(5);
  };

  // `random` returns numbers from 0 up to, not including, 1.
  BackOff(const Options& options, std::function<double()> random)
      : options_(options), random_(std::move(random)), next_(options.first) {}

  absl::Duration Next() {
    const absl::Duration delay = next_ * (0.5 + 0.5 * random_());
    next_ = std::min(2 * next_, options_.longest);
    return delay;
  }

  void Reset() { next_ = options_.first; }

 private:
  const Options options_;
  const std::function<double()> random_;
  absl::Duration next_;
};

}  // namespace turbofleet
