#include "client/lib/convert_job.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/lib/convert.h"
#include "client/lib/retrier.h"
#include "common/errors.h"

namespace turbofleet::client {
namespace {

constexpr int64_t kImagesMax = 100'000'000;

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  const int64_t seconds = absl::IDivDuration(duration, absl::Seconds(1), &duration);
  proto.set_seconds(seconds);
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

v1::Job::State StateToProto(JobState state) {
  switch (state) {
    case JobState::kUnknown:
      return v1::Job::STATE_UNSPECIFIED;
    case JobState::kRunning:
      return v1::Job::STATE_RUNNING;
    case JobState::kCompleted:
      return v1::Job::STATE_COMPLETED;
    case JobState::kCancelled:
      return v1::Job::STATE_CANCELLED;
    case JobState::kExpired:
      return v1::Job::STATE_EXPIRED;
  }
  return v1::Job::STATE_UNSPECIFIED;
}

JobState StateFromProto(v1::Job::State state) {
  switch (state) {
    case v1::Job::STATE_RUNNING:
      return JobState::kRunning;
    case v1::Job::STATE_COMPLETED:
      return JobState::kCompleted;
    case v1::Job::STATE_CANCELLED:
      return JobState::kCancelled;
    case v1::Job::STATE_EXPIRED:
      return JobState::kExpired;
    default:
      return JobState::kUnknown;
  }
}

std::optional<Priority> PriorityFromProto(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_INTERACTIVE:
      return Priority::kInteractive;
    case v1::PRIORITY_NORMAL:
      return Priority::kNormal;
    case v1::PRIORITY_BULK:
      return Priority::kBulk;
    default:
      return std::nullopt;
  }
}

bool AddsUp(const v1::Job& job) {
  return job.image_count() >= 1 && job.image_count() <= kImagesMax && job.prompt_count() >= 1 &&
         job.seeds_per_prompt() >= 1 && int64_t{job.prompt_count()} * job.seeds_per_prompt() == job.image_count() &&
         job.images_completed() >= 0 && job.images_failed() >= 0 && job.images_completed() <= job.image_count() &&
         job.images_failed() <= job.image_count() - job.images_completed();
}

}  // namespace

v1::JobSpec ToProto(const JobRequest& request) {
  v1::JobSpec spec;
  *spec.mutable_images() = WithoutPromptsToProto(request.images);
  spec.set_request_id(request.request_id);
  spec.mutable_labels()->insert(request.labels.begin(), request.labels.end());
  if (request.timeout.has_value()) *spec.mutable_timeout() = ToProto(*request.timeout);
  if (request.retention.has_value()) *spec.mutable_retention() = ToProto(*request.retention);
  return spec;
}

absl::StatusOr<v1::ListJobsRequest> ToProto(const JobFilter& filter) {
  if (filter.state == JobState::kUnknown) return InvalidField("state", "is none that a job can be in");
  v1::ListJobsRequest request;
  if (filter.state.has_value()) request.set_state(StateToProto(*filter.state));
  request.mutable_labels()->insert(filter.labels.begin(), filter.labels.end());
  return request;
}

absl::StatusOr<Job> FromProto(const v1::Job& proto) {
  if (!absl::StartsWith(proto.name(), "jobs/")) return ProtocolViolation("sent a job without a name");
  if (!AddsUp(proto)) return ProtocolViolation(absl::StrCat("sent ", proto.name(), " with numbers that do not add up"));
  Job job;
  job.name = proto.name();
  job.state = StateFromProto(proto.state());
  job.accepted = FromProto(proto.accepted());
  job.prompt_count = proto.prompt_count();
  job.seeds_per_prompt = proto.seeds_per_prompt();
  job.image_count = proto.image_count();
  job.images_completed = proto.images_completed();
  job.images_failed = proto.images_failed();
  job.bytes_retained = proto.bytes_retained();
  job.waits_for_release = proto.waits_for_release();
  job.priority = PriorityFromProto(proto.priority());
  job.labels = {proto.labels().begin(), proto.labels().end()};
  job.create_time = FromProto(proto.create_time());
  if (proto.has_deadline()) job.deadline = FromProto(proto.deadline());
  if (proto.has_end_time()) job.end_time = FromProto(proto.end_time());
  if (proto.has_delete_time()) job.delete_time = FromProto(proto.delete_time());
  job.request_id = proto.request_id();
  return job;
}

bool HasEnded(const Job& job) {
  switch (job.state) {
    case JobState::kCompleted:
    case JobState::kCancelled:
    case JobState::kExpired:
      return true;
    case JobState::kRunning:
      return false;
    case JobState::kUnknown:
      return job.end_time.has_value();
  }
  return false;
}

}  // namespace turbofleet::client
