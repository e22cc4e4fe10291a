// The digest of a model: what pictures depend on beside the request.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace turbofleet::sd_turbo {

// A file of the model and the name under which it enters the digest, which does not depend on where the folder is.
struct ModelFile {
  std::string name;  // Such as "unet/config.json".
  std::string path;
};

// "sha256:" and 64 hex digits of the SHA-256 over, for each file in the given order:
//   name, a zero byte, the size in bytes as decimal digits, a zero byte, the contents.
// UNAVAILABLE: a file cannot be read.
absl::StatusOr<std::string> ComputeModelDigest(const std::vector<ModelFile>& files);

struct DigestCacheOptions {
  std::string folder;                       // Made when it is missing. Empty: nothing is remembered.
  uint64_t bytes_min = uint64_t{64} << 20;  // Smaller models are hashed each time, which takes well under a second.
};

// The same, remembered by the files' names, real paths, sizes and times of change, so that the gigabytes of a large
// model are read once. A cache that cannot be read or written costs time and is no error.
absl::StatusOr<std::string> CachedModelDigest(const std::vector<ModelFile>& files, const DigestCacheOptions& cache);

// `${XDG_CACHE_HOME}/turbofleet`, or `${HOME}/.cache/turbofleet`; empty when neither is set.
std::string UserCacheFolder();

}  // namespace turbofleet::sd_turbo
