// EXIF metadata with one field.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace turbofleet {

// A big-endian TIFF structure whose only content is a UserComment with the text in UTF-16, as the tools that write
// generation parameters store it. INVALID_ARGUMENT: not valid UTF-8.
absl::StatusOr<std::string> ExifWithUserComment(std::string_view text);

// The code points of a UTF-8 text. INVALID_ARGUMENT: not valid UTF-8.
absl::StatusOr<std::u32string> CodePoints(std::string_view text);

}  // namespace turbofleet
