#include "common/clock.h"

#include <chrono>

namespace turbofleet {
namespace {

int64_t SteadyNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

SteadyClock::SteadyClock() : wall_start_(absl::Now()), steady_start_ns_(SteadyNanoseconds()) {}

absl::Time SteadyClock::Now() const { return wall_start_ + absl::Nanoseconds(SteadyNanoseconds() - steady_start_ns_); }

}  // namespace turbofleet
