// manifest.jsonl: one line per picture, with all that it takes to make it again.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace turbofleet::cli {

struct ManifestEntry {
  // In every line.
  int64_t index = 0;
  std::string prompt;
  uint64_t seed = 0;
  int32_t width = 0;
  int32_t height = 0;
  int32_t steps = 0;
  double strength = 1;
  std::string path;    // Relative to the manifest's folder.
  std::string sha256;  // Of the RGB pixels, 64 hex digits.
  std::string model_digest;
  std::string worker;
  // Where they say something.
  std::string id;
  std::string negative_prompt;
  double guidance_scale = 0;
  std::string format = "png";
  std::optional<int32_t> quality;
  std::string vae = "full";
  std::string init_image;         // Relative to the manifest's folder.
  std::string init_image_sha256;  // Of the file.
  std::string job;
  int32_t attempt = 1;
  int32_t prompt_tokens_cut = 0;
  // Of its job, if the folder does not know the job's prompts; `prompt` and what else only the request had is empty
  // then.
  std::optional<int64_t> prompt_index;
  std::string request;  // Fingerprint of what was asked for; a second run finds its pictures by it.
};

// Keys in the order above.
nlohmann::ordered_json ToJson(const ManifestEntry& entry);

// One line. INVALID_ARGUMENT names the key that is missing or wrong. Keys that are not known are left alone.
absl::StatusOr<ManifestEntry> ParseManifestLine(std::string_view line);

struct Manifest {
  std::vector<ManifestEntry> entries;
  // Bytes of the lines that are whole. What follows is a line that a crash cut short, and means nothing.
  size_t bytes_whole = 0;
};

// INVALID_ARGUMENT names the line. Empty lines are skipped.
absl::StatusOr<Manifest> ParseManifest(std::string_view text);

}  // namespace turbofleet::cli
