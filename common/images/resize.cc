#include "common/images/resize.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace turbofleet {
namespace {

constexpr int kPrecisionBits = 22;  // Leaves room for 8 bits of pixel and 2 of overshoot in 32.
constexpr double kLobes = 3.0;

// What one output pixel takes from the input along one axis.
struct Taps {
  int first = 0;
  std::vector<int32_t> weights;  // Fixed point; they add up to about one.
};

double Sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double Lanczos(double x) { return -kLobes <= x && x < kLobes ? Sinc(x) * Sinc(x / kLobes) : 0.0; }

std::vector<Taps> TapsFor(int in_size, int out_size) {
  const double scale = static_cast<double>(in_size) / out_size;
  // When it shrinks, the filter widens so that every input pixel counts.
  const double filter_scale = std::max(scale, 1.0);
  const double support = kLobes * filter_scale;
  std::vector<Taps> taps(out_size);
  for (int out = 0; out < out_size; ++out) {
    const double centre = (out + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), in_size);
    std::vector<double> weights(last - first);
    double sum = 0.0;
    for (int i = 0; i < last - first; ++i) {
      weights[i] = Lanczos((i + first - centre + 0.5) * (1.0 / filter_scale));
      sum += weights[i];
    }
    taps[out].first = first;
    for (const double weight : weights) {
      const double scaled = (sum != 0.0 ? weight / sum : weight) * (1 << kPrecisionBits);
      taps[out].weights.push_back(static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return taps;
}

uint8_t Rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }

// One output value: `stride` bytes lie between neighbours along the axis.
uint8_t Resample(const uint8_t* in, size_t stride, const Taps& taps) {
  int32_t sum = 1 << (kPrecisionBits - 1);
  for (size_t i = 0; i < taps.weights.size(); ++i) sum += in[i * stride] * taps.weights[i];
  return Rounded(sum);
}

RgbImage ResizeWidth(const RgbImage& image, int width) {
  const std::vector<Taps> taps = TapsFor(image.width, width);
  RgbImage out = {.width = width, .height = image.height, .pixels = {}};
  out.pixels.reserve(static_cast<size_t>(width) * image.height * 3);
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* row = image.pixels.data() + static_cast<size_t>(y) * image.width * 3;
    for (const Taps& tap : taps) {
      for (int c = 0; c < 3; ++c) out.pixels.push_back(Resample(row + tap.first * 3 + c, 3, tap));
    }
  }
  return out;
}

RgbImage ResizeHeight(const RgbImage& image, int height) {
  const size_t stride = static_cast<size_t>(image.width) * 3;
  RgbImage out = {.width = image.width, .height = height, .pixels = {}};
  out.pixels.reserve(stride * height);
  for (const Taps& tap : TapsFor(image.height, height)) {
    const uint8_t* column = image.pixels.data() + tap.first * stride;
    for (size_t x = 0; x < stride; ++x) out.pixels.push_back(Resample(column + x, stride, tap));
  }
  return out;
}

}  // namespace

RgbImage ResizeLanczos(const RgbImage& image, int width, int height) {
  // Width first: the rounding between the passes is part of the result.
  RgbImage resized = image.width == width ? image : ResizeWidth(image, width);
  return resized.height == height ? resized : ResizeHeight(resized, height);
}

}  // namespace turbofleet
