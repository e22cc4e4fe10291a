// What requests of all kinds have to keep to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "turbofleet/generate.h"

namespace turbofleet::client {

struct ImagesLimits {
  size_t prompts_max = 0;
  int64_t images_max = 0;  // Of all prompts together.
};

// As Validate() of the public header, within these limits.
absl::Status ValidateImages(const GenerateRequest& request, const ImagesLimits& limits);

}  // namespace turbofleet::client
