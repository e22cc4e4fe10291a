// Which calls make the pictures of a manifest again.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/manifest.h"
#include "turbofleet/client.h"

namespace turbofleet::cli {

// One request for raw pixels; image `i` of it is to be compared with the manifest's entries `entries[i]`.
struct VerifyCall {
  client::GenerateRequest request;
  std::vector<std::vector<size_t>> entries;
};

// An entry that cannot be asked for, and why.
struct VerifyProblem {
  size_t entry = 0;
  std::string what;
};

struct VerifyPlan {
  std::vector<VerifyCall> calls;
  std::vector<VerifyProblem> problems;
};

// Entries of the same recipe and seed share a call, up to 1,000 prompts. Start pictures are read from `folder`, the
// manifest's, and must be what they were.
VerifyPlan PlanVerification(const std::vector<ManifestEntry>& entries, const std::string& folder);

}  // namespace turbofleet::cli
