#include "tests/golden/golden.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>

#include "worker/engine/weights/safetensors.h"

namespace turbofleet {
namespace {

constexpr int64_t kSamples = 256;
constexpr int64_t kPictureSamples = 6144;
constexpr size_t kTail = 3;  // Number of values, mean, standard deviation.

int64_t Stride(int64_t count, int64_t most) { return std::max<int64_t>(1, (count + most - 1) / most); }

std::vector<float> ToFloats(const TensorView& view) {
  const auto dtype = view.dtype == DType::kFloat16 ? at::kHalf : at::kFloat;
  at::Tensor tensor = at::empty(view.shape, dtype);
  std::memcpy(tensor.data_ptr(), view.data, view.size_bytes);
  tensor = tensor.to(at::kFloat);
  return {tensor.const_data_ptr<float>(), tensor.const_data_ptr<float>() + tensor.numel()};
}

[[noreturn]] void Die(const std::string& why) {
  std::cerr << why << "\n";
  std::abort();
}

}  // namespace

std::string GoldenPath(const std::string& name) { return std::string(TURBOFLEET_SOURCE_DIR) + "/tests/golden/" + name; }

nlohmann::json ReadGoldenJson(const std::string& name) {
  std::ifstream stream(GoldenPath(name + ".json"));
  return nlohmann::json::parse(stream);
}

Goldens::Goldens(const std::string& name) {
  const auto files = WeightFiles::Open(GoldenPath(name + ".safetensors"), WeightFiles::Limits{});
  if (!files.ok()) Die(files.status().ToString());
  for (const auto& [entry, view] : files->Tensors()) entries_[entry] = ToFloats(view);
}

StageError Goldens::Compare(const std::string& entry, const at::Tensor& result) const {
  const std::vector<float>& golden = entries_.at(entry);
  const size_t samples = golden.size() - kTail;
  const at::Tensor flat = result.to(at::kFloat).contiguous().flatten();
  const double mean = golden[samples + 1];
  const double deviation = golden[samples + 2];
  if (static_cast<double>(flat.numel()) != golden[samples]) Die(entry + ": another number of values");
  const at::Tensor taken = flat.slice(0, 0, flat.numel(), Stride(flat.numel(), kSamples)).contiguous();
  const float* values = taken.const_data_ptr<float>();
  StageError error;
  for (size_t i = 0; i < samples; ++i) {
    const double difference = std::abs(static_cast<double>(values[i]) - golden[i]) / deviation;
    // Written so that NaN counts as the worst error.
    if (!(difference <= error.largest)) error.largest = difference;
  }
  const at::Tensor whole = flat.to(at::kDouble);
  error.mean_shift = std::max(std::abs(whole.mean().item<double>() - mean),
                              std::abs(whole.std(/*unbiased=*/false).item<double>() - deviation)) /
                     deviation;
  return error;
}

double Goldens::Psnr(const std::string& entry, const RgbImage& image) const {
  const std::vector<float>& golden = entries_.at(entry);
  const auto count = static_cast<int64_t>(image.pixels.size());
  const auto stride = static_cast<size_t>(Stride(count, kPictureSamples));
  const size_t samples = golden.size() - kTail;
  if (samples != (image.pixels.size() + stride - 1) / stride) Die(entry + ": another size");
  double squares = 0;
  for (size_t i = 0; i < samples; ++i) {
    const double difference = static_cast<double>(image.pixels[i * stride]) - golden[i];
    squares += difference * difference;
  }
  if (squares == 0) return 99;
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(samples) / squares);
}

RgbImage StartPicture(int width, int height) {
  RgbImage image{.width = width, .height = height, .pixels = {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const bool marked = y >= height / 4 && y < height / 2 && x >= width / 4 && x < width / 2;
      const int smooth[] = {x * 255 / width, y * 255 / height, (x + 2 * y) * 255 / (width + 2 * height)};
      constexpr int kMark[] = {250, 20, 60};
      for (int c = 0; c < 3; ++c) image.pixels.push_back(static_cast<uint8_t>(marked ? kMark[c] : smooth[c]));
    }
  }
  return image;
}

}  // namespace turbofleet
