// Virtual time, by which shares are kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace turbofleet {

// The clock of flows that share devices by weight: start-time fair queueing. Each flow has a virtual time, and the
// one that is furthest behind is served next; to be served costs it device time, divided by its weight.
//
// Virtual times are nanoseconds of device time at weight 1. Thread-compatible.
class FairClock {
 public:
  // How far a flow may lag behind what is being served, in device time. Work that no worker can take makes its flow
  // lag, and that is no claim to have the devices for itself later.
  static constexpr int64_t kLagMax = 10'000'000'000;

  // Where a flow goes on that was away: level with what is being served, or with the `laggard` that it will compete
  // with if that is behind. What it was served ahead of its share it still owes.
  int64_t Level(int64_t virtual_time, int64_t laggard) const { return std::max(virtual_time, std::min(now_, laggard)); }

  // Where a flow stands after it was served.
  int64_t Serve(int64_t virtual_time, int64_t cost, double weight) {
    const int64_t start = std::max(virtual_time, now_ - Scaled(kLagMax, weight));
    now_ = std::max(now_, start);
    return start + Scaled(cost, weight);
  }

  static int64_t Scaled(int64_t cost, double weight) { return std::llround(static_cast<double>(cost) / weight); }

  // The virtual time of the flow that was served last.
  int64_t now() const { return now_; }

 private:
  int64_t now_ = 0;
};

}  // namespace turbofleet
