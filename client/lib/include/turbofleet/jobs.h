// Jobs: images that the cluster makes whether or not anybody waits for them. Plain data; nothing here touches the
// network.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "turbofleet/generate.h"

namespace turbofleet::client {

// What a job is to be.
struct JobRequest {
  // As for GenerateImages, but with any number of prompts, and up to 100,000,000 images in all.
  GenerateRequest images = {};
  // Names this creation: another one with the same name and content gives the same job, one with other content is
  // refused (ALREADY_EXISTS). At most 128 characters of [A-Za-z0-9._:/-]. Empty: the library draws one, so that its own
  // tries never make a second job.
  std::string request_id = {};
  // To find the job by. At most 16 of at most 63 bytes of [A-Za-z0-9._/-] each, the values too.
  std::map<std::string, std::string> labels = {};
  // What is not finished by then will not be; 1 second to 30 days. Not set: as long as it takes.
  std::optional<absl::Duration> timeout = {};
  // How long the job and its pictures are kept after its end, up to 30 days. Not set: as the coordinator is configured.
  std::optional<absl::Duration> retention = {};
};

// INVALID_ARGUMENT if the cluster would refuse `request` whatever its state, as for GenerateRequest.
// Client::CreateJob() checks this before it sends anything.
absl::Status Validate(const JobRequest& request);

// Where a job is in its life.
enum class JobState {
  kUnknown,    // One that this library does not know.
  kRunning,    // Images are being made, or wait.
  kCompleted,  // Every image has ended, as a picture or as a failure.
  kCancelled,
  kExpired,  // Its timeout passed.
};

struct Job {
  std::string name;  // `jobs/{job}`.
  JobState state = JobState::kUnknown;
  Accepted accepted;  // What was understood; `seeds` has at most the first 1,000.
  int64_t prompt_count = 0;
  int64_t seeds_per_prompt = 0;
  int64_t image_count = 0;
  int64_t images_completed = 0;  // Ended as a picture.
  int64_t images_failed = 0;
  int64_t bytes_retained = 0;      // That its pictures take on the coordinator.
  bool waits_for_release = false;  // Its pictures fill the room that it may have.
  std::optional<Priority> priority;
  std::map<std::string, std::string> labels;
  absl::Time create_time;
  std::optional<absl::Time> deadline;     // Not set: it never expires.
  std::optional<absl::Time> end_time;     // Not set: it runs.
  std::optional<absl::Time> delete_time;  // When it is deleted by itself. Not set: it runs.
  std::string request_id;
};

// Whether no further image of the job will end.
bool HasEnded(const Job& job);

// Which jobs to list: those that fit all that is set.
struct JobFilter {
  std::optional<JobState> state = {};  // Not kUnknown.
  std::map<std::string, std::string> labels = {};
};

struct WatchRequest {
  std::string name = {};  // `jobs/{job}`.
  // Of the last event that is not needed again. Empty: from the beginning.
  std::string resume_token = {};
  // Images by index, each after all those before it, instead of as they are finished.
  bool ordered = false;
  // Leaves Image::content empty.
  bool without_content = false;
};

// One event of a job. Image::job is the job's name.
struct WatchEvent {
  // A Job whenever it has changed, first and last at the least; in between at most once a second.
  std::variant<Job, Image, ImageFailure> event;
  // Goes on after this event when given to WatchJob.
  std::string resume_token;
};

}  // namespace turbofleet::client
