// Pictures to files and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/images/rgb_image.h"

namespace turbofleet {

enum class ImageFormat { kPng, kJpeg, kWebp, kRaw };

struct EncodeOptions {
  ImageFormat format = ImageFormat::kPng;
  int quality = 95;  // JPEG and WebP, 1 to 100.
  // What made the picture, in the text that image tools read, UTF-8 of at most 30,000 bytes; empty leaves it out. PNG:
  // the `parameters` tEXt or iTXt chunk; JPEG and WebP: the EXIF UserComment. Refused for raw, which has no room for
  // it.
  std::string parameters;
};

// The encoded file, or the bare pixels for kRaw. The same input gives the same bytes on one kind of machine.
// INVALID_ARGUMENT: the picture is empty, beyond 16,383 pixels on a side, or an option is out of range. Thread-safe.
absl::StatusOr<std::string> EncodeImage(const RgbImage& image, const EncodeOptions& options);

struct DecodeLimits {
  size_t bytes_max = 8 << 20;
  int64_t pixels_max = 16 << 20;
  int side_max = 8192;
  // A file that unpacks to more than this many times its size is a decompression bomb. Plain colours compress well, so
  // pictures of up to `ratio_free_pixels` are exempt.
  int64_t ratio_max = 300;
  int64_t ratio_free_pixels = 1 << 20;
};

// Decodes a PNG, JPEG or WebP file, told apart by its first bytes, to RGB as PIL's convert("RGB") does for the usual
// kinds: alpha is dropped, grey and palette pictures become RGB, 16 bits become 8, EXIF orientation is ignored.
// Dimensions are checked before pixels are unpacked. INVALID_ARGUMENT: not such a file, damaged, or beyond the limits;
// the message says which. Thread-safe.
absl::StatusOr<RgbImage> DecodeImage(std::string_view bytes, const DecodeLimits& limits);

// Whether the first bytes are those of a PNG, JPEG or WebP file.
bool LooksLikeImage(std::string_view bytes);

}  // namespace turbofleet
