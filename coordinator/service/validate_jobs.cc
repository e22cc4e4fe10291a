#include "coordinator/service/validate_jobs.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/errors.h"
#include "common/status.h"
#include "common/text.h"
#include "coordinator/service/validate.h"

namespace turbofleet {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr int kLabelsMax = 16;
constexpr size_t kLabelBytesMax = 63;
constexpr absl::Duration kTimeoutMin = absl::Seconds(1);
constexpr absl::Duration kTimeoutMax = absl::Hours(24 * 30);
constexpr std::string_view kJobPrefix = "jobs/";
constexpr size_t kJobIdLength = 32;
constexpr size_t kTokenJobLength = 8;

bool ConsistsOf(std::string_view text, std::string_view punctuation) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || punctuation.find(c) != std::string_view::npos;
  });
}

absl::StatusOr<absl::Duration> ParseDuration(const char* field, const google::protobuf::Duration& duration,
                                             absl::Duration min, absl::Duration max) {
  const absl::Duration value = absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
  if (value >= min && value <= max) return value;
  return InvalidField(field, absl::StrCat("is ", absl::FormatDuration(value), "; must be ", absl::FormatDuration(min),
                                          " to ", absl::FormatDuration(max)));
}

absl::Status CheckLabels(const std::string& field, const google::protobuf::Map<std::string, std::string>& labels) {
  if (labels.size() > kLabelsMax) {
    return InvalidField(field, absl::StrCat("has ", labels.size(), "; at most ", kLabelsMax, " are allowed"));
  }
  for (const auto& [key, value] : labels) {
    if (!key.empty() && key.size() <= kLabelBytesMax && value.size() <= kLabelBytesMax && ConsistsOf(key, "._/-") &&
        ConsistsOf(value, "._/-")) {
      continue;
    }
    return InvalidField(
        field, absl::StrCat("has a key or value that is not up to ", kLabelBytesMax, " characters of [A-Za-z0-9._/-]"));
  }
  return absl::OkStatus();
}

// An error about a field of the message at `path`, as one about the whole message.
absl::Status WithPath(const std::string& path, const absl::Status& status) {
  const std::string message(status.message());
  const size_t colon = message.find(": ");
  if (ReasonOf(status) != "INVALID_FIELD" || colon == std::string::npos) return status;
  return InvalidField(absl::StrCat(path, ".", message.substr(0, colon)), message.substr(colon + 2));
}

std::optional<int64_t> ParseNumber(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  // One spelling each.
  if (absl::StrCat(number) != text) return std::nullopt;
  return number;
}

}  // namespace

absl::StatusOr<JobOrder> ParseJobSpec(const v1::JobSpec& spec) {
  TURBOFLEET_RETURN_IF_ERROR(CheckUnknownFields(spec));
  JobOrder order;
  if (!spec.has_images()) return InvalidField("job.images", "is not set");
  absl::StatusOr<JobRequest> images = ParseJobImages(spec.images());
  if (!images.ok()) return WithPath("job.images", images.status());
  order.images = *std::move(images);
  if (spec.request_id().size() > kRequestIdBytesMax || !ConsistsOf(spec.request_id(), "._:/-")) {
    return InvalidField("job.request_id",
                        absl::StrCat("must be up to ", kRequestIdBytesMax, " characters of [A-Za-z0-9._:/-]"));
  }
  order.request_id = spec.request_id();
  TURBOFLEET_RETURN_IF_ERROR(CheckLabels("job.labels", spec.labels()));
  order.labels.insert(spec.labels().begin(), spec.labels().end());
  if (spec.has_timeout()) {
    TURBOFLEET_ASSIGN_OR_RETURN(order.timeout, ParseDuration("job.timeout", spec.timeout(), kTimeoutMin, kTimeoutMax));
  }
  if (spec.has_retention()) {
    TURBOFLEET_ASSIGN_OR_RETURN(order.retention,
                                ParseDuration("job.retention", spec.retention(), absl::ZeroDuration(), kTimeoutMax));
  }
  return order;
}

absl::StatusOr<std::vector<std::string>> ParsePromptList(const v1::PromptList& list) {
  TURBOFLEET_RETURN_IF_ERROR(CheckUnknownFields(list));
  if (list.prompts().empty()) return InvalidField("prompts.prompts", "is empty");
  if (list.prompts_size() > kPromptsInMessageMax) {
    return InvalidField("prompts.prompts", absl::StrCat("has ", list.prompts_size(), "; at most ", kPromptsInMessageMax,
                                                        " are allowed in one message"));
  }
  for (int i = 0; i < list.prompts_size(); ++i) {
    TURBOFLEET_RETURN_IF_ERROR(CheckText(absl::StrCat("prompts.prompts[", i, "]"), list.prompts(i)));
  }
  return std::vector<std::string>(list.prompts().begin(), list.prompts().end());
}

absl::StatusOr<std::string> ParseJobName(const std::string& name) {
  std::string_view id = name;
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (id.starts_with(kJobPrefix)) {
    id.remove_prefix(kJobPrefix.size());
    if (id.size() == kJobIdLength && std::all_of(id.begin(), id.end(), is_hex)) return std::string(id);
  }
  return InvalidField("name", "is not the name of a job, jobs/{job}, as CreateJob returned it");
}

// ---- Pages

absl::StatusOr<JobQuery> ParseListJobsRequest(const v1::ListJobsRequest& request) {
  TURBOFLEET_RETURN_IF_ERROR(CheckUnknownFields(request));
  JobQuery query;
  switch (request.state()) {
    case v1::Job::STATE_UNSPECIFIED:
      break;
    case v1::Job::STATE_RUNNING:
      query.state = JobState::kRunning;
      break;
    case v1::Job::STATE_COMPLETED:
      query.state = JobState::kCompleted;
      break;
    case v1::Job::STATE_CANCELLED:
      query.state = JobState::kCancelled;
      break;
    case v1::Job::STATE_EXPIRED:
      query.state = JobState::kExpired;
      break;
    default:
      return InvalidField("state", absl::StrCat("is ", static_cast<int>(request.state()), ", which is not known"));
  }
  TURBOFLEET_RETURN_IF_ERROR(CheckLabels("labels", request.labels()));
  query.labels.insert(request.labels().begin(), request.labels().end());
  if (request.page_token().empty()) return query;
  const std::string_view token = request.page_token();
  const size_t dot = token.find('.');
  const std::optional<int64_t> micros = ParseNumber(token.substr(0, dot));
  if (dot == std::string_view::npos || !micros.has_value() ||
      !ParseJobName(absl::StrCat("jobs/", std::string(token.substr(dot + 1)))).ok()) {
    return InvalidField("page_token", "was not given out by this method");
  }
  query.after.emplace(absl::FromUnixMicros(*micros), std::string(token.substr(dot + 1)));
  return query;
}

std::string PageTokenAfter(const JobRecord& last) {
  return absl::StrCat(absl::ToUnixMicros(last.create_time), ".", last.id);
}

// ---- Resume tokens: the order ("s" by sequence, "i" by index), the position, and the beginning of the job's id.

std::string ResumeToken(const std::string& job_id, WatchPosition position) {
  return absl::StrCat(position.ordered ? "i" : "s", position.position, ".", job_id.substr(0, kTokenJobLength));
}

absl::StatusOr<WatchPosition> ParseResumeToken(const std::string& job_id, const std::string& token, bool ordered) {
  if (token.empty()) return WatchPosition{.ordered = ordered, .position = 0};
  const std::string_view text = token;
  const size_t dot = text.find('.');
  const std::optional<int64_t> position =
      dot == std::string_view::npos ? std::nullopt : ParseNumber(text.substr(1, dot - 1));
  if (!position.has_value() || text.substr(dot + 1) != job_id.substr(0, kTokenJobLength) ||
      (text[0] != 's' && text[0] != 'i')) {
    return InvalidField("resume_token", "was not given out for this job");
  }
  return WatchPosition{.ordered = text[0] == 'i', .position = *position};
}

}  // namespace turbofleet
