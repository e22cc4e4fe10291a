// Entries of manifests.
#pragma once

#include <string>

#include "client/cli/manifest.h"

namespace turbofleet::cli {

inline ManifestEntry Entry(int64_t index, const std::string& prompt = "a fox", uint64_t seed = 7) {
  ManifestEntry entry;
  entry.index = index;
  entry.prompt = prompt;
  entry.seed = seed;
  entry.width = 64;
  entry.height = 64;
  entry.steps = 1;
  entry.path = std::to_string(index) + ".png";
  entry.sha256 = std::string(64, 'a');
  entry.model_digest = "sha256:" + std::string(64, 'b');
  entry.worker = "workers/w";
  entry.request = "request-" + std::to_string(index);
  return entry;
}

}  // namespace turbofleet::cli
