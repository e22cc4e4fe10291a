// Engines by name. The one door from the program to the pipelines.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/engine/engine.h"
#include "worker/options.h"

namespace turbofleet {

// Loads the engine for one of the devices of `options`. UNIMPLEMENTED: this build does not have it. Otherwise the
// errors of the engine, which name the option or the file.
absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const WorkerOptions& options, const DeviceOptions& device);

// Sets the process up for the engine. To be called first thing in main.
void PrepareProcess();

}  // namespace turbofleet
