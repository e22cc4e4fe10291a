#include "client/cli/job_folder.h"

#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/recipe.h"
#include "client/cli/table.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kFileBytesMax = size_t{16} << 30;
constexpr char kRecordName[] = "/job.json";
constexpr char kPositionName[] = "/job-position.json";

// The file is the old one or the new one, never half of it.
absl::Status ReplaceFile(const std::string& path, const Json& json) {
  const std::string temporary = path + ".part";
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << Dump(json) << "\n";
    file.close();
    if (!file) return absl::UnknownError(absl::StrCat("cannot write ", temporary));
  }
  if (std::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat("cannot write ", path));
}

// Null if there is no such file.
absl::StatusOr<Json> ReadJson(const std::string& path) {
  struct stat file;
  if (stat(path.c_str(), &file) != 0) return Json();
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kFileBytesMax));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": is no JSON object"));
  return json;
}

// The value of a key; the default if it is missing or of another kind.
template <typename Value>
Value ValueOr(const Json& json, const char* key, const Value& otherwise) {
  const auto found = json.find(key);
  if (found == json.end() || found->type() != Json(otherwise).type()) return otherwise;
  return found->get<Value>();
}

Json ToJson(const JobRecord& record) {
  Json json = {{"job", record.job}};
  if (record.prompts.empty()) return json;
  json["negative_prompt"] = record.negative_prompt;
  json["guidance_scale"] = record.guidance_scale;
  if (record.quality.has_value()) json["quality"] = *record.quality;
  json["vae"] = record.vae;
  json["init_image"] = record.init_image;
  json["init_image_sha256"] = record.init_image_sha256;
  json["prompts"] = record.prompts;
  return json;
}

absl::StatusOr<JobRecord> ParseRecord(const Json& json, const std::string& path) {
  JobRecord record;
  if (json.is_null()) return record;
  record.job = ValueOr(json, "job", std::string());
  record.negative_prompt = ValueOr(json, "negative_prompt", std::string());
  record.guidance_scale = ValueOr(json, "guidance_scale", 0.0);
  if (json.contains("quality") && json["quality"].is_number_integer()) record.quality = json["quality"].get<int32_t>();
  record.vae = ValueOr(json, "vae", std::string("full"));
  record.init_image = ValueOr(json, "init_image", std::string());
  record.init_image_sha256 = ValueOr(json, "init_image_sha256", std::string());
  for (const Json& prompt : ValueOr(json, "prompts", Json::array())) {
    if (!prompt.is_string())
      return absl::InvalidArgumentError(absl::StrCat(path, ": prompts: has one that is no text"));
    record.prompts.push_back(prompt.get<std::string>());
  }
  if (record.job.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": job: is missing"));
  return record;
}

// Indexes of the lines of errors.jsonl. A line that a crash cut short says nothing: its event comes again.
absl::StatusOr<std::set<int64_t>> ReadFailures(const std::string& path) {
  std::set<int64_t> indexes;
  struct stat file;
  if (stat(path.c_str(), &file) != 0) return indexes;
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kFileBytesMax));
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("index") && json["index"].is_number_integer()) {
      indexes.insert(json["index"].get<int64_t>());
    }
  }
  return indexes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobFolder>> JobFolder::Open(const std::string& path, NameTemplate names) {
  TURBOFLEET_ASSIGN_OR_RETURN(std::unique_ptr<OutputFolder> output, OutputFolder::Open(path, std::move(names)));
  std::unique_ptr<JobFolder> folder(new JobFolder(std::move(output)));
  TURBOFLEET_RETURN_IF_ERROR(folder->Load());
  return folder;
}

absl::Status JobFolder::Load() {
  const std::string record_path = output_->path() + kRecordName;
  TURBOFLEET_ASSIGN_OR_RETURN(const Json record, ReadJson(record_path));
  TURBOFLEET_ASSIGN_OR_RETURN(record_, ParseRecord(record, record_path));
  if (record_.job.empty()) {
    if (output_->earlier().empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(output_->path(), " has pictures that are of no job; choose another folder with --out"));
  }
  TURBOFLEET_ASSIGN_OR_RETURN(const Json position, ReadJson(output_->path() + kPositionName));
  if (position.is_object()) {
    position_ = {.ordered = ValueOr(position, "ordered", false),
                 .resume_token = ValueOr(position, "resume_token", std::string())};
  }
  for (const ManifestEntry& entry : output_->earlier()) digests_[entry.index] = entry.sha256;
  TURBOFLEET_ASSIGN_OR_RETURN(failures_, ReadFailures(output_->errors_path()));
  return absl::OkStatus();
}

absl::Status JobFolder::SetRecord(JobRecord record) {
  if (!record_.job.empty() && record_.job != record.job) {
    return absl::FailedPreconditionError(absl::StrCat(output_->path(), " has pictures of ", record_.job, ", not of ",
                                                      record.job, "; choose another folder with --out"));
  }
  if (!record_.job.empty() && record.prompts.empty()) return absl::OkStatus();
  TURBOFLEET_RETURN_IF_ERROR(ReplaceFile(output_->path() + kRecordName, ToJson(record)));
  record_ = std::move(record);
  return absl::OkStatus();
}

absl::Status JobFolder::SetPosition(JobPosition position) {
  TURBOFLEET_RETURN_IF_ERROR(ReplaceFile(output_->path() + kPositionName,
                                         {{"ordered", position.ordered}, {"resume_token", position.resume_token}}));
  position_ = std::move(position);
  return absl::OkStatus();
}

const std::string* JobFolder::DigestAt(int64_t index) const {
  const auto found = digests_.find(index);
  return found == digests_.end() ? nullptr : &found->second;
}

}  // namespace turbofleet::cli
