// Matchers for absl::Status and absl::StatusOr, with the names that later Abseil releases ship.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace turbofleet {
namespace internal_status_matchers {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

}  // namespace internal_status_matchers

MATCHER(IsOk, "is OK") {
  const absl::Status& status = internal_status_matchers::StatusOf(arg);
  *result_listener << "which is " << status.ToString();
  return status.ok();
}

MATCHER_P(StatusIs, code, "has status code " + absl::StatusCodeToString(code)) {
  const absl::Status& status = internal_status_matchers::StatusOf(arg);
  *result_listener << "which is " << status.ToString();
  return status.code() == code;
}

// The message matters when it has to name the field that was wrong.
MATCHER_P2(StatusIs, code, message, "has status code " + absl::StatusCodeToString(code)) {
  const absl::Status& status = internal_status_matchers::StatusOf(arg);
  *result_listener << "which is " << status.ToString();
  return status.code() == code &&
         ::testing::ExplainMatchResult(message, std::string(status.message()), result_listener);
}

MATCHER_P(IsOkAndHolds, value, "is OK and holds the value") {
  if (!arg.ok()) {
    *result_listener << "which is " << arg.status().ToString();
    return false;
  }
  return ::testing::ExplainMatchResult(value, *arg, result_listener);
}

#define TURBOFLEET_EXPECT_OK(expression) EXPECT_THAT(expression, ::turbofleet::IsOk())
#define TURBOFLEET_ASSERT_OK(expression) ASSERT_THAT(expression, ::turbofleet::IsOk())

}  // namespace turbofleet
