// Names of devices and precisions, checked against this machine.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/sd_turbo/weight_source.h"

namespace turbofleet::sd_turbo {

// Errors as of MakeSdTurboEngine.
absl::StatusOr<Placement> ParsePlacement(const std::string& device, const std::string& precision);

// "cpu" or "cuda:N".
std::string DeviceText(const at::Device& device);

// What the device is called by its maker.
std::string DeviceName(const at::Device& device);

}  // namespace turbofleet::sd_turbo
