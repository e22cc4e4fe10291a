#include "common/status.h"

#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

absl::StatusOr<int> Halve(int n) {
  if (n % 2 != 0) return absl::InvalidArgumentError("odd");
  return n / 2;
}

absl::StatusOr<int> Quarter(int n) {
  TURBOFLEET_ASSIGN_OR_RETURN(const int half, Halve(n));
  TURBOFLEET_RETURN_IF_ERROR(Halve(half).status());
  return half / 2;
}

TEST(StatusTest, MacrosPassValuesAndErrorsOn) {
  EXPECT_THAT(Quarter(8), IsOkAndHolds(2));
  EXPECT_THAT(Quarter(3), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
}

TEST(StatusTest, AnnotationKeepsCodeAndDetails) {
  absl::Status status = absl::NotFoundError("no such file");
  status.SetPayload("type.example/detail", absl::Cord("payload"));
  const absl::Status annotated = Annotate(status, "unet");
  EXPECT_THAT(annotated, StatusIs(absl::StatusCode::kNotFound, "unet: no such file"));
  EXPECT_EQ(annotated.GetPayload("type.example/detail"), absl::Cord("payload"));
  EXPECT_THAT(Annotate(absl::OkStatus(), "unet"), IsOk());
}

}  // namespace
}  // namespace turbofleet
