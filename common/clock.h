// Time as a dependency, so that tests tell it.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace turbofleet {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes backwards within a process; starts near the wall-clock time.
  virtual absl::Time Now() const = 0;
};

// The machine's steady clock, expressed as an absl::Time.
class SteadyClock : public Clock {
 public:
  SteadyClock();
  absl::Time Now() const override;

 private:
  const absl::Time wall_start_;
  const int64_t steady_start_ns_;
};

}  // namespace turbofleet
