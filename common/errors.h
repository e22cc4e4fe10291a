// Errors as clients see them: a canonical code, a message for people, and a stable reason for programs.
//
// The details travel as payloads of absl::Status inside a program and as google.rpc details on the wire, so a reason
// given deep in a layer reaches the client in another language unchanged. All functions are thread-safe.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace turbofleet {

// The domain of every ErrorInfo of ours.
inline constexpr char kErrorDomain[] = "turbofleet.dev";

// An error with google.rpc.ErrorInfo. `reason` is UPPER_SNAKE_CASE and listed in docs/reference/errors.md.
absl::Status MakeError(absl::StatusCode code, const std::string& reason, const std::string& message,
                       const std::map<std::string, std::string>& metadata = {});

// INVALID_ARGUMENT with the reason INVALID_FIELD and google.rpc.BadRequest naming `field` by its path in the message,
// such as "prompts[3]" or "width". The message is "<field>: <description>".
absl::Status InvalidField(const std::string& field, const std::string& description);

// Adds google.rpc.RetryInfo.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);

// Adds google.rpc.QuotaFailure: which limit was hit, such as "images_queued_max".
absl::Status WithQuotaFailure(absl::Status status, const std::string& subject, const std::string& description);

// The ErrorInfo reason, or "" if there is none.
std::string ReasonOf(const absl::Status& status);

// The RetryInfo delay, if there is one.
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

// To and from the wire, with all details. OK maps to OK.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace turbofleet
