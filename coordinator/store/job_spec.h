// A job as it was admitted: what every worker needs to render its images, wherever and whenever it does.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace turbofleet {

enum class FileFormat { kPng, kJpeg, kWebp, kRaw };

// Every default filled in. The image at `prompt_index * seeds_per_prompt + seed_index` shows that prompt from that
// seed.
struct JobSpec {
  std::string name;  // "jobs/{job}".
  std::string tenant;
  JobClass job_class = JobClass::kNormal;
  std::map<std::string, std::string> labels;
  absl::Duration retention;  // How long a durable job is kept after its end.

  int32_t prompt_count = 0;
  // By prompt index. Empty for a durable job, whose prompts may be millions: they come with the shards.
  std::vector<std::string> prompts;
  std::string negative_prompt;
  double guidance_scale = 0.0;
  int32_t seeds_per_prompt = 1;
  uint32_t first_seed = 0;
  std::vector<uint32_t> seeds;  // By seed index. Empty: first_seed and those after it.

  BatchShape shape;
  std::string init_image_sha256;  // Empty for text-to-image.
  double strength = 0.0;          // 0 for text-to-image.
  FileFormat format = FileFormat::kPng;
  int32_t quality = 95;
  bool embed_metadata = true;
  std::string model_digest;
  std::string model_name;

  int32_t ImageCount() const { return prompt_count * seeds_per_prompt; }
  int32_t PromptIndexOf(int32_t image) const { return image / seeds_per_prompt; }
  uint32_t SeedOf(int32_t image) const {
    const int32_t seed = image % seeds_per_prompt;
    return seeds.empty() ? first_seed + static_cast<uint32_t>(seed) : seeds[seed];
  }

  friend bool operator==(const JobSpec&, const JobSpec&) = default;
};

}  // namespace turbofleet
