// Between the plain types of jobs and the protos.
#pragma once

#include "absl/status/statusor.h"
#include "turbofleet/jobs.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet::client {

// Without the prompts, which travel on their own.
v1::JobSpec ToProto(const JobRequest& request);

// INVALID_ARGUMENT: `state` is no state that a job can be asked for by.
absl::StatusOr<v1::ListJobsRequest> ToProto(const JobFilter& filter);

// INTERNAL: numbers that contradict each other, or no name.
absl::StatusOr<Job> FromProto(const v1::Job& job);

}  // namespace turbofleet::client
