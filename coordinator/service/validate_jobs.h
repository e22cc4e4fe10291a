// What clients ask of durable jobs, checked against what the protos document. No gRPC, no state.
//
// Every error is INVALID_ARGUMENT with INVALID_FIELD and names the field.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/store/job_store.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet {

inline constexpr int kPromptsInMessageMax = 8'192;

// The order, but for its tenant.
absl::StatusOr<JobOrder> ParseJobSpec(const v1::JobSpec& spec);

absl::StatusOr<std::vector<std::string>> ParsePromptList(const v1::PromptList& list);

// The id of "jobs/{job}".
absl::StatusOr<std::string> ParseJobName(const std::string& name);

// The query, but for its tenant.
absl::StatusOr<JobQuery> ParseListJobsRequest(const v1::ListJobsRequest& request);
// Goes on after `last`.
std::string PageTokenAfter(const JobRecord& last);

// Where to go on, and back. A token belongs to one job.
std::string ResumeToken(const std::string& job_id, WatchPosition position);
// An empty token is the beginning, in the order asked for.
absl::StatusOr<WatchPosition> ParseResumeToken(const std::string& job_id, const std::string& token, bool ordered);

}  // namespace turbofleet
