// An engine without a model: real small pictures from the seed, at a rate and with failures that are set. For cluster
// tests and benchmarks on any machine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/engine/engine.h"

namespace turbofleet {

struct SimulatedEngineOptions {
  absl::Duration batch_time;  // Per batch, on top of image_time for each image.
  absl::Duration image_time = absl::Milliseconds(10);
  double jitter = 0.0;        // Each batch takes 1 +/- jitter of its time; 0 to 1. Drawn from `seed`.
  double failure_rate = 0.0;  // Share of images that fail with INTERNAL, by image: a function of the request.
  double crash_rate = 0.0;    // Share of batches that end the process at once, as a driver fault does.
  int fail_device_after = 0;  // Render fails as a whole after this many batches. 0: never.
  int width = 64;             // Default size.
  int height = 64;
  int batch_images_max = 8;
  uint64_t seed = 0;         // Of jitter and crashes, never of pictures.
  std::string model_digest;  // Empty: the digest of the simulated model.
};

// Parses "image_time=5ms,jitter=0.2,failure_rate=0.01": comma-separated fields of the struct above by their names.
// INVALID_ARGUMENT names the field that is unknown or out of range.
absl::StatusOr<SimulatedEngineOptions> ParseSimulatedEngineOptions(const std::string& text);

// `sleep` passes the time (absl::SleepFor in programs; tests count it). Pictures are a function of the shape and the
// request alone.
std::unique_ptr<Engine> MakeSimulatedEngine(const SimulatedEngineOptions& options,
                                            std::function<void(absl::Duration)> sleep);

}  // namespace turbofleet
