// A job as it was admitted: what every worker needs to render its images, wherever and whenever it does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/scheduler/types.h"

namespace turbofleet {

enum class FileFormat { kPng, kJpeg, kWebp, kRaw };

// Every default filled in. The image at `prompt_index * seeds.size() + seed_index` shows that prompt from that seed.
struct JobSpec {
  std::string name;  // "jobs/{job}".
  std::vector<std::string> prompts;
  std::string negative_prompt;
  double guidance_scale = 0.0;
  std::vector<uint32_t> seeds;
  BatchShape shape;
  std::string init_image_sha256;  // Empty for text-to-image.
  double strength = 0.0;          // 0 for text-to-image.
  FileFormat format = FileFormat::kPng;
  int32_t quality = 95;
  bool embed_metadata = true;
  std::string model_digest;
  std::string model_name;

  int32_t ImageCount() const { return static_cast<int32_t>(prompts.size() * seeds.size()); }
  int32_t PromptIndexOf(int32_t image) const { return image / static_cast<int32_t>(seeds.size()); }
  uint32_t SeedOf(int32_t image) const { return seeds[image % static_cast<int32_t>(seeds.size())]; }
};

}  // namespace turbofleet
