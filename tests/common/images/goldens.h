// What make_goldens.py wrote.
#pragma once

#include <fstream>
#include <sstream>
#include <string>

#include "common/images/rgb_image.h"
#include "nlohmann/json.hpp"

namespace turbofleet {

inline const std::string kGoldenFolder = TURBOFLEET_SOURCE_DIR "/tests/common/images/";

inline std::string ReadGoldenFile(const std::string& name) {
  std::ifstream file(kGoldenFolder + name, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

inline nlohmann::json ReadGoldens() { return nlohmann::json::parse(ReadGoldenFile("goldens.json")); }

// The noise of make_goldens.py.
inline RgbImage NoiseImage(int width, int height, uint32_t seed) {
  RgbImage image = {.width = width, .height = height, .pixels = {}};
  image.pixels.resize(static_cast<size_t>(width) * height * 3);
  for (uint8_t& value : image.pixels) {
    seed = seed * 1664525 + 1013904223;
    value = static_cast<uint8_t>(seed >> 24);
  }
  return image;
}

// Colours that flow into one another, as photographs' do.
inline RgbImage SmoothImage(int width, int height) {
  RgbImage image = {.width = width, .height = height, .pixels = {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      image.pixels.push_back(static_cast<uint8_t>(255 * x / width));
      image.pixels.push_back(static_cast<uint8_t>(255 * y / height));
      image.pixels.push_back(static_cast<uint8_t>(255 - 255 * (x + y) / (width + height)));
    }
  }
  return image;
}

}  // namespace turbofleet
