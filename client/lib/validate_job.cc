#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/lib/validate.h"
#include "common/errors.h"
#include "common/status.h"
#include "common/text.h"
#include "turbofleet/jobs.h"

namespace turbofleet::client {
namespace {

constexpr int64_t kImagesMax = 100'000'000;
constexpr size_t kRequestIdMax = 128;
constexpr size_t kLabelsMax = 16;
constexpr size_t kLabelBytesMax = 63;
constexpr absl::Duration kTimeoutMin = absl::Seconds(1);
constexpr absl::Duration kTimeMax = absl::Hours(24 * 30);

bool HasOnly(std::string_view text, std::string_view others) {
  return std::all_of(text.begin(), text.end(), [others](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || others.find(c) != std::string_view::npos;
  });
}

absl::Status ValidateLabels(const JobRequest& request) {
  if (request.labels.size() > kLabelsMax) {
    return InvalidField("labels", absl::StrCat("has ", request.labels.size(), " labels, but may have ", kLabelsMax));
  }
  for (const auto& [key, value] : request.labels) {
    if (key.empty()) return InvalidField("labels", "has one without a name");
    for (const std::string& text : {key, value}) {
      if (text.size() <= kLabelBytesMax && HasOnly(text, "._/-")) continue;
      return InvalidField("labels", absl::StrCat("may have at most ", kLabelBytesMax, " bytes of [A-Za-z0-9._/-], not ",
                                                 JsonQuote(TruncateUtf8(ReplaceInvalidUtf8(text), kLabelBytesMax))));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateTime(const std::string& field, std::optional<absl::Duration> time, absl::Duration least) {
  if (!time.has_value() || (*time >= least && *time <= kTimeMax)) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat("must be ", absl::FormatDuration(least), " to 30 days, not ", absl::FormatDuration(*time)));
}

}  // namespace

absl::Status Validate(const JobRequest& request) {
  TURBOFLEET_RETURN_IF_ERROR(
      ValidateImages(request.images, {.prompts_max = static_cast<size_t>(kImagesMax), .images_max = kImagesMax}));
  if (request.request_id.size() > kRequestIdMax || !HasOnly(request.request_id, "._:/-")) {
    return InvalidField("request_id",
                        absl::StrCat("may have at most ", kRequestIdMax, " characters of [A-Za-z0-9._:/-], not ",
                                     JsonQuote(TruncateUtf8(ReplaceInvalidUtf8(request.request_id), kRequestIdMax))));
  }
  TURBOFLEET_RETURN_IF_ERROR(ValidateLabels(request));
  TURBOFLEET_RETURN_IF_ERROR(ValidateTime("timeout", request.timeout, kTimeoutMin));
  return ValidateTime("retention", request.retention, absl::ZeroDuration());
}

}  // namespace turbofleet::client
