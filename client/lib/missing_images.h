// Which images of a request have not ended yet, and how to ask for exactly those.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace turbofleet::client {

// Images that one request can ask for: every prompt here with every seed here, by their index in the first request.
struct ImageGroup {
  std::vector<size_t> prompts;
  std::vector<size_t> seeds;

  friend bool operator==(const ImageGroup&, const ImageGroup&) = default;
};

// Thread-compatible.
class MissingImages {
 public:
  MissingImages(size_t prompts, size_t seeds_per_prompt);

  // False if the image had ended before. REQUIRES: the indexes are within the request.
  bool End(size_t prompt, size_t seed);

  size_t count() const { return missing_; }

  // Groups that hold every missing image once and no other. Prompts that miss the same seeds are asked for together,
  // in the order of the first of them.
  std::vector<ImageGroup> Groups() const;

 private:
  const size_t prompts_;
  const size_t seeds_;
  size_t missing_;
  std::vector<bool> ended_;  // By prompt * seeds_ + seed.
};

}  // namespace turbofleet::client
