// The pictures of the simulated engine.
#pragma once

#include <cstdint>
#include <string>

#include "worker/engine/engine.h"

namespace turbofleet {

// SplitMix64: a generator whose state is a counter, so that a stream is a function of its seed on any machine.
class CounterRandom {
 public:
  explicit CounterRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // Uniform in [0, 1).
  double NextUnit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// A number that depends on every field of the shape and the request that describes the picture.
uint64_t FingerprintOf(const RenderShape& shape, const RenderRequest& request);

// A gradient with three discs, drawn from the fingerprint. With a start picture, half of each pixel is that picture's.
RgbImage DrawSimulatedPicture(const RenderShape& shape, const RenderRequest& request);

}  // namespace turbofleet
