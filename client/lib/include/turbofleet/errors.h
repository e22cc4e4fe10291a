// What a program can read in an error of the cluster.
//
// Every call returns absl::Status with a canonical code and a message for people. What the coordinator refused also
// carries a reason that does not change between releases; docs/reference/errors.md lists them. Functions are
// thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace turbofleet {

// The stable reason, such as "INVALID_FIELD", or "" if the error came from the network and not from the cluster.
std::string ReasonOf(const absl::Status& status);

// How long the cluster asks to wait before the next try, if it said so.
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

namespace client {

// The fields that the cluster, or Validate(), did not accept, by their path in the request, such as "width" or
// "prompts[3]". Empty if the error is no such refusal.
std::vector<std::string> BadFieldsOf(const absl::Status& status);

// The cluster sent what the protocol does not allow, such as one image twice.
inline constexpr char kReasonProtocolViolation[] = "PROTOCOL_VIOLATION";

}  // namespace client
}  // namespace turbofleet
