// EXIF metadata with one field.
#pragma once

#include <string>
#include <string_view>

namespace turbofleet {

// A big-endian TIFF structure whose only content is a UserComment with the text in UTF-16, as the tools that write
// generation parameters store it. REQUIRES: `text` is valid UTF-8.
std::string ExifWithUserComment(std::string_view text);

// The code points of a text. REQUIRES: `text` is valid UTF-8.
std::u32string CodePoints(std::string_view text);

}  // namespace turbofleet
