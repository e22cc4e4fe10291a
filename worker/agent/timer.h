// Calls later, as a dependency, so that tests say when later is.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"

namespace turbofleet {

// Thread-safe.
class Timer {
 public:
  using Id = uint64_t;

  virtual ~Timer() = default;

  // Calls `callback` once after `delay`, from a thread of the timer's. It must be quick, and may call back into the
  // timer.
  virtual Id After(absl::Duration delay, std::function<void()> callback) = 0;

  // Forgets the call. One that is being made right now goes on, so callbacks own what they touch.
  virtual void Cancel(Id id) = 0;
};

// A timer on the machine's steady time with one thread, which ends with it.
std::unique_ptr<Timer> MakeThreadTimer();

}  // namespace turbofleet
