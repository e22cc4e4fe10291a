// Watches a job into a folder.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cli/job_folder.h"
#include "client/cli/picture_writer.h"
#include "client/cli/progress.h"
#include "turbofleet/client.h"

namespace turbofleet::cli {

struct JobWatcherOptions {
  bool json = false;                           // A line on standard output per image.
  bool ordered = false;                        // By index.
  bool release = false;                        // What is in the folder is given up on the coordinator.
  std::optional<absl::Duration> timeout = {};  // Of the watch.
};

// Goes on where the folder stands. Each picture is in the folder once, whenever the process was killed. Used once.
class JobWatcher {
 public:
  // All outlive it. The folder is the job's.
  JobWatcher(Client* client, JobFolder* folder, Progress* progress, const JobWatcherOptions& options);

  // OK: the job has ended and the folder has all of it. FAILED_PRECONDITION: the folder was filled in another order, or
  // with other pictures.
  absl::Status Run(std::stop_token stop);

  const PictureWriter& writer() const { return writer_; }
  // Pictures that the folder had before.
  int64_t earlier() const { return earlier_; }
  // As it was last heard of.
  const std::optional<client::Job>& job() const { return job_; }

 private:
  absl::Status OnEvent(client::WatchEvent event);
  absl::Status OnJob(client::Job job);
  absl::Status OnImage(const client::Image& image);
  absl::Status OnFailure(const client::ImageFailure& failure);

  Client* const client_;
  JobFolder* const folder_;
  Progress* const progress_;
  const JobWatcherOptions options_;
  const int64_t earlier_;
  PictureWriter writer_;
  client::GenerateRequest request_;  // As far as the folder knows it.
  std::optional<client::Job> job_;
  bool told_of_waiting_ = false;
};

}  // namespace turbofleet::cli
