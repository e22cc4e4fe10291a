// A picture in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace turbofleet {

// Pixels in rows from the top, 3 bytes (R, G, B) each, without padding.
struct RgbImage {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;  // width * height * 3 bytes.
};

// SHA-256 of the pixels, 64 lower-case hex digits.
std::string PixelDigest(const RgbImage& image);

}  // namespace turbofleet
