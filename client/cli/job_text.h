// Jobs in the words of the command line.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "turbofleet/client.h"

namespace turbofleet::cli {

// "running", "completed", "cancelled", "expired", or "unknown".
std::string StateName(client::JobState state);
// INVALID_ARGUMENT names --state.
absl::StatusOr<client::JobState> ParseState(const std::string& name);

// `jobs/{job}` from that or from `{job}` alone. INVALID_ARGUMENT: it is neither, or no name that a folder can have.
absl::StatusOr<std::string> JobNameOf(const std::string& text);
// `{job}` of `jobs/{job}`.
std::string JobIdOf(const std::string& name);

nlohmann::ordered_json JobJson(const client::Job& job);

}  // namespace turbofleet::cli
