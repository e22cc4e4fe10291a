// Writes PNG files quickly: for pictures by the hundred a second, deflate is what costs.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/images/rgb_image.h"

namespace turbofleet {

// An 8-bit RGB file, each row as the difference to the one above, compressed by ISA-L (by zlib where ISA-L is missing)
// at its quickest level. `parameters` goes into a `parameters` text chunk unless it is empty. REQUIRES: a valid picture
// and valid UTF-8.
absl::StatusOr<std::string> WritePng(const RgbImage& image, const std::string& parameters);

}  // namespace turbofleet
