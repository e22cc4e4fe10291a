#include "worker/engine/simulated/simulated_picture.h"

#include <array>
#include <bit>
#include <string_view>

namespace turbofleet {
namespace {

// FNV-1a over 64-bit words and bytes; good enough to tell requests apart, and the same everywhere.
class Fingerprint {
 public:
  void Add(uint64_t word) {
    for (int byte = 0; byte < 8; ++byte) AddByte(static_cast<uint8_t>(word >> (8 * byte)));
  }
  void Add(std::string_view text) {
    Add(static_cast<uint64_t>(text.size()));
    for (const char c : text) AddByte(static_cast<uint8_t>(c));
  }
  uint64_t value() const { return value_; }

 private:
  void AddByte(uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001b3; }
  uint64_t value_ = 0xcbf29ce484222325;
};

struct Disc {
  int64_t x = 0;  // Pixels.
  int64_t y = 0;
  int64_t radius_squared = 0;
  std::array<uint8_t, 3> colour{};
};

}  // namespace

uint64_t CounterRandom::Next() {
  state_ += 0x9e3779b97f4a7c15;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

uint64_t FingerprintOf(const RenderShape& shape, const RenderRequest& request) {
  Fingerprint fingerprint;
  for (const int field : {shape.width, shape.height, shape.steps, shape.first_step, shape.image_to_image ? 1 : 0,
                          static_cast<int>(shape.vae)}) {
    fingerprint.Add(static_cast<uint64_t>(field));
  }
  fingerprint.Add(std::string_view(request.prompt));
  fingerprint.Add(std::string_view(request.negative_prompt));
  fingerprint.Add(std::bit_cast<uint64_t>(request.guidance_scale));
  fingerprint.Add(static_cast<uint64_t>(request.seed));
  return fingerprint.value();
}

RgbImage DrawSimulatedPicture(const RenderShape& shape, const RenderRequest& request) {
  CounterRandom random(FingerprintOf(shape, request));
  const auto colour = [&] {
    const uint64_t bits = random.Next();
    return std::array<uint8_t, 3>{static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8),
                                  static_cast<uint8_t>(bits >> 16)};
  };
  const std::array<uint8_t, 3> top = colour(), bottom = colour();
  std::array<Disc, 3> discs;
  for (Disc& disc : discs) {
    const int64_t radius = 4 + static_cast<int64_t>(random.Next() % static_cast<uint64_t>(shape.width / 4));
    disc = {.x = static_cast<int64_t>(random.Next() % static_cast<uint64_t>(shape.width)),
            .y = static_cast<int64_t>(random.Next() % static_cast<uint64_t>(shape.height)),
            .radius_squared = radius * radius,
            .colour = colour()};
  }

  RgbImage image = {.width = shape.width, .height = shape.height, .pixels = {}};
  image.pixels.resize(static_cast<size_t>(shape.width) * shape.height * 3);
  uint8_t* out = image.pixels.data();
  for (int y = 0; y < shape.height; ++y) {
    for (int x = 0; x < shape.width; ++x, out += 3) {
      for (int c = 0; c < 3; ++c) {
        out[c] = static_cast<uint8_t>((top[c] * (shape.height - 1 - y) + bottom[c] * y) / (shape.height - 1));
      }
      for (const Disc& disc : discs) {
        const int64_t dx = x - disc.x, dy = y - disc.y;
        if (dx * dx + dy * dy <= disc.radius_squared) std::copy(disc.colour.begin(), disc.colour.end(), out);
      }
    }
  }
  if (request.init_image != nullptr) {
    const std::vector<uint8_t>& start = request.init_image->pixels;
    for (size_t i = 0; i < image.pixels.size(); ++i) {
      image.pixels[i] = static_cast<uint8_t>((image.pixels[i] + start[i]) / 2);
    }
  }
  return image;
}

}  // namespace turbofleet
