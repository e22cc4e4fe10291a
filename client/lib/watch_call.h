// One WatchJob call with all its tries.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/lib/connection.h"
#include "client/lib/retrier.h"

namespace turbofleet::client {

// Thread-compatible; used once.
//
// A stream that breaks is asked for again with the token of the last event that the caller has had, and what comes is
// checked against all that came before. What the caller was being told when it asked to stop counts as not told.
class WatchCall {
 public:
  // All arguments outlive the call.
  WatchCall(const Connection::Dependencies& dependencies, const RetryPolicy& policy, const WatchRequest& request,
            const WatchOptions& options, const std::function<void(WatchEvent event)>& on_event);

  absl::Status Run();

 private:
  // Watches from `token_` on, once. OK: the job has ended.
  absl::Status Try();
  absl::Status OnResponse(v1::WatchJobResponse* response);
  absl::Status OnJob(const v1::Job& proto, const std::string& token);
  absl::Status OnImage(v1::Image* proto, const std::string& token);
  absl::Status OnFailure(const v1::ImageFailure& proto, const std::string& token);
  // INTERNAL: there is no such image, or it has ended before, or it comes out of order.
  absl::Status EndImage(int64_t index, uint64_t seed, const std::string& token);
  // Passes the event on.
  absl::Status Deliver(WatchEvent event);
  // Whether all has come that the job says it has.
  absl::Status CheckComplete() const;

  // Releases what was delivered if it is time.
  absl::Status ReleaseIfDue();
  // One try. Sets what the job says of itself now.
  absl::StatusOr<v1::Job> Release(const CallOptions& call);
  absl::Status ReleaseTheRest();

  const Connection::Dependencies& dependencies_;
  const RetryPolicy& policy_;
  const WatchRequest& request_;
  const WatchOptions& options_;
  const std::function<void(WatchEvent event)>& on_event_;
  const GenerateOptions tries_;
  Retrier retrier_;

  std::string token_;        // Of the last event that was delivered.
  v1::Job job_proto_;        // The last that came.
  std::optional<Job> job_;   // The same.
  std::vector<bool> ended_;  // By index, in this watch; sized with the first job.
  int64_t last_index_ = -1;
  int64_t images_ = 0;
  int64_t failures_ = 0;
  bool stream_started_ = false;  // A message came in this try.
  bool stream_brought_ = false;  // An event was delivered in this try.
  bool job_is_last_ = false;     // The last message of this try was a job.

  bool unreleased_ = false;       // Images up to token_ were delivered and not released.
  int64_t unreleased_bytes_ = 0;  // Of their files.
  bool waits_for_release_ = false;
};

}  // namespace turbofleet::client
