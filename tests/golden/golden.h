// Reads what make_goldens.py wrote, and says how far a result is from it.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/engine/engine.h"

namespace turbofleet {

// How far a tensor is from the golden one, in units of the golden one's standard deviation, so that one budget fits
// stages of all sizes.
struct StageError {
  double largest = 0;     // Of the sampled values.
  double mean_shift = 0;  // Of the means and standard deviations of the whole tensors, the larger.
};

// The committed file tests/golden/<name>.safetensors. Ends the test program when it is missing or damaged.
class Goldens {
 public:
  explicit Goldens(const std::string& name);

  bool Has(const std::string& entry) const { return entries_.contains(entry); }
  // REQUIRES: Has(entry).
  StageError Compare(const std::string& entry, const at::Tensor& result) const;
  // Peak signal-to-noise ratio over the sampled bytes, in dB; 99 when all are equal. REQUIRES: Has(entry).
  double Psnr(const std::string& entry, const RgbImage& image) const;

 private:
  std::map<std::string, std::vector<float>> entries_;
};

// A picture that the script makes in the same way.
RgbImage StartPicture(int width, int height);

// tests/golden/<name>.json.
nlohmann::json ReadGoldenJson(const std::string& name);

// The same bytes and nothing else: "tests/golden/<name>" in the source tree.
std::string GoldenPath(const std::string& name);

}  // namespace turbofleet
