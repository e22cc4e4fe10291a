#include "client/cli/job_text.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/recipe.h"
#include "client/cli/table.h"
#include "common/errors.h"
#include "common/text.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

constexpr size_t kIdBytesMax = 128;

}  // namespace

std::string StateName(client::JobState state) {
  switch (state) {
    case client::JobState::kUnknown:
      return "unknown";
    case client::JobState::kRunning:
      return "running";
    case client::JobState::kCompleted:
      return "completed";
    case client::JobState::kCancelled:
      return "cancelled";
    case client::JobState::kExpired:
      return "expired";
  }
  return "unknown";
}

absl::StatusOr<client::JobState> ParseState(const std::string& name) {
  for (const auto state : {client::JobState::kRunning, client::JobState::kCompleted, client::JobState::kCancelled,
                           client::JobState::kExpired}) {
    if (StateName(state) == name) return state;
  }
  return InvalidField("--state", absl::StrCat("must be running, completed, cancelled or expired, not ", name));
}

absl::StatusOr<std::string> JobNameOf(const std::string& text) {
  const std::string id(absl::StripPrefix(text, "jobs/"));
  const bool is_id = std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
  if (is_id && !id.empty() && id[0] != '.' && id.size() <= kIdBytesMax) return absl::StrCat("jobs/", id);
  return InvalidField("JOB", absl::StrCat("must be a name such as jobs/1a2b, not ",
                                          JsonQuote(TruncateUtf8(ReplaceInvalidUtf8(text), 40))));
}

std::string JobIdOf(const std::string& name) { return std::string(absl::StripPrefix(name, "jobs/")); }

nlohmann::ordered_json JobJson(const client::Job& job) {
  nlohmann::ordered_json json = {{"name", job.name},
                                 {"state", StateName(job.state)},
                                 {"image_count", job.image_count},
                                 {"images_completed", job.images_completed},
                                 {"images_failed", job.images_failed},
                                 {"prompt_count", job.prompt_count},
                                 {"seeds_per_prompt", job.seeds_per_prompt},
                                 {"width", job.accepted.width},
                                 {"height", job.accepted.height},
                                 {"steps", job.accepted.steps},
                                 {"model_name", job.accepted.model_name},
                                 {"model_digest", job.accepted.model_digest},
                                 {"bytes_retained", job.bytes_retained},
                                 {"waits_for_release", job.waits_for_release}};
  if (job.priority.has_value()) json["priority"] = PriorityName(*job.priority);
  json["labels"] = nlohmann::ordered_json::object();
  for (const auto& [key, value] : job.labels) json["labels"][key] = value;
  json["create_time"] = TimeText(job.create_time);
  const auto add_time = [&json](const char* key, const std::optional<absl::Time>& time) {
    if (time.has_value()) json[key] = TimeText(*time);
  };
  add_time("deadline", job.deadline);
  add_time("end_time", job.end_time);
  add_time("delete_time", job.delete_time);
  if (!job.request_id.empty()) json["request_id"] = job.request_id;
  return json;
}

}  // namespace turbofleet::cli
