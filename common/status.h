// Status helpers that our Abseil release does not have yet.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet {

// The same code and payloads, with "context: " before the message. An OK status stays OK.
absl::Status Annotate(const absl::Status& status, const std::string& context);

}  // namespace turbofleet

#define TURBOFLEET_CONCAT_INNER_(a, b) a##b
#define TURBOFLEET_CONCAT_(a, b) TURBOFLEET_CONCAT_INNER_(a, b)

// Returns from the enclosing function when `expression` is not OK.
#define TURBOFLEET_RETURN_IF_ERROR(expression)                                      \
  do {                                                                              \
    if (absl::Status turbofleet_status_ = (expression); !turbofleet_status_.ok()) { \
      return turbofleet_status_;                                                    \
    }                                                                               \
  } while (false)

// Assigns the value of a StatusOr, or returns its error: TURBOFLEET_ASSIGN_OR_RETURN(const int n, Parse(text));
#define TURBOFLEET_ASSIGN_OR_RETURN(declaration, expression) \
  TURBOFLEET_ASSIGN_OR_RETURN_IMPL_(TURBOFLEET_CONCAT_(turbofleet_statusor_, __LINE__), declaration, expression)
#define TURBOFLEET_ASSIGN_OR_RETURN_IMPL_(statusor, declaration, expression) \
  auto statusor = (expression);                                              \
  if (!statusor.ok()) return std::move(statusor).status();                   \
  declaration = *std::move(statusor)
