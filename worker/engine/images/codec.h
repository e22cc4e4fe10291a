// Pictures to bytes and back. Needs no device: runs on encoder threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/engine.h"

namespace turbofleet {

enum class ImageFormat { kPng, kJpeg, kWebp, kRaw };

struct EncodeOptions {
  ImageFormat format = ImageFormat::kPng;
  int quality = 95;  // JPEG and WebP, 1 to 100.
  // What made the picture, in the "parameters" text that image tools read, UTF-8; empty leaves it out. PNG: the
  // `parameters` tEXt or iTXt chunk; JPEG: EXIF UserComment; WebP: EXIF UserComment. Not for raw.
  std::string parameters;
};

// The encoded file, or the bare pixels for kRaw. INVALID_ARGUMENT: the picture is empty, beyond 16384 pixels on a side,
// or the quality is out of range. Thread-safe.
absl::StatusOr<std::string> EncodeImage(const RgbImage& image, const EncodeOptions& options);

struct DecodeLimits {
  size_t bytes_max = 8 << 20;
  int64_t pixels_max = 4 << 20;
  int side_max = 4096;
  // A file that unpacks to more than this many times its size is a decompression bomb. Plain colours compress well,
  // so pictures of up to `ratio_free_pixels` are exempt.
  int64_t ratio_max = 300;
  int64_t ratio_free_pixels = 1 << 20;
};

// Decodes a PNG, JPEG or WebP file, told apart by its first bytes, to RGB: transparency is laid over black as PIL's
// convert("RGB") does (alpha dropped), grey and palette pictures become RGB, 16 bits become 8, the EXIF orientation is
// ignored as the reference does. Dimensions are checked before pixels are unpacked. INVALID_ARGUMENT: not such a file,
// damaged, or beyond the limits; the message says which limit. Thread-safe.
absl::StatusOr<RgbImage> DecodeImage(std::string_view bytes, const DecodeLimits& limits);

// Resizes as PIL's Image.resize(..., LANCZOS) does, to the same 8-bit results. REQUIRES: width, height > 0.
RgbImage ResizeLanczos(const RgbImage& image, int width, int height);

// SHA-256 of the pixels, 64 hex digits.
std::string PixelDigest(const RgbImage& image);

}  // namespace turbofleet
