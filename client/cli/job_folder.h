// What a folder knows of the job whose pictures it takes: job.json and job-position.json.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/manifest.h"
#include "client/cli/output_folder.h"
#include "turbofleet/client.h"

namespace turbofleet::cli {

// What a job was made from and only its creator knows; job.json.
struct JobRecord {
  std::string job;  // `jobs/{job}`.
  // Empty: not known, because the job was created elsewhere; what follows means nothing then.
  std::vector<std::string> prompts = {};
  std::string negative_prompt = {};
  double guidance_scale = 0;
  std::optional<int32_t> quality = {};
  std::string vae = "full";
  std::string init_image = {};  // Relative to the folder.
  std::string init_image_sha256 = {};
};

// How far the folder is; job-position.json. It is written after the pictures that it stands for.
struct JobPosition {
  bool ordered = false;
  std::string resume_token;  // Empty: nothing has come.
};

// A folder for one job. One process at a time. Thread-compatible.
class JobFolder {
 public:
  // As OutputFolder::Open(). FAILED_PRECONDITION also: the folder has pictures that are of no job.
  static absl::StatusOr<std::unique_ptr<JobFolder>> Open(const std::string& path, NameTemplate names);

  OutputFolder* output() { return output_.get(); }
  // Its `job` is empty in a new folder.
  const JobRecord& record() const { return record_; }
  const JobPosition& position() const { return position_; }

  // Makes it the folder of `record.job`. FAILED_PRECONDITION: it is another job's. A record without prompts leaves what
  // is known of the same job alone.
  absl::Status SetRecord(JobRecord record);
  absl::Status SetPosition(JobPosition position);

  // Pictures and failures that the folder has.
  int64_t images() const { return static_cast<int64_t>(digests_.size()); }
  int64_t failures() const { return static_cast<int64_t>(failures_.size()); }
  // The digest of the picture at `index`, if the folder has it: one whose token was not written any more.
  const std::string* DigestAt(int64_t index) const;
  bool HasFailure(int64_t index) const { return failures_.count(index) > 0; }

 private:
  explicit JobFolder(std::unique_ptr<OutputFolder> output) : output_(std::move(output)) {}

  absl::Status Load();

  const std::unique_ptr<OutputFolder> output_;
  JobRecord record_;
  JobPosition position_;
  std::unordered_map<int64_t, std::string> digests_;
  std::set<int64_t> failures_;
};

}  // namespace turbofleet::cli
