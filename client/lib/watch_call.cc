#include "client/lib/watch_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/lib/convert.h"
#include "client/lib/convert_job.h"
#include "common/errors.h"
#include "common/status.h"
#include "google/protobuf/util/message_differencer.h"

namespace turbofleet::client {

WatchCall::WatchCall(const Connection::Dependencies& dependencies, const RetryPolicy& policy,
                     const WatchRequest& request, const WatchOptions& options,
                     const std::function<void(WatchEvent event)>& on_event)
    : dependencies_(dependencies),
      policy_(policy),
      request_(request),
      options_(options),
      on_event_(on_event),
      tries_{.timeout = options.timeout, .stop = options.stop, .on_retry = options.on_retry},
      retrier_(dependencies, policy, tries_),
      token_(request.resume_token) {}

absl::Status WatchCall::Run() {
  while (true) {
    TURBOFLEET_RETURN_IF_ERROR(retrier_.Check());
    const absl::Time start = dependencies_.clock->Now();
    const absl::Status status = Try();
    if (status.ok()) return ReleaseTheRest();
    // A job that has nothing to tell for hours may lose its stream as often as it likes to, just not at once.
    const bool lasted = stream_started_ && dependencies_.clock->Now() - start >= policy_.delay_max;
    TURBOFLEET_RETURN_IF_ERROR(
        retrier_.WaitToRetry(status, /*resumable=*/job_.has_value(), /*progress=*/stream_brought_ || lasted));
  }
}

absl::Status WatchCall::Try() {
  stream_started_ = false;
  stream_brought_ = false;
  job_is_last_ = false;
  v1::WatchJobRequest request;
  request.set_name(request_.name);
  request.set_resume_token(token_);
  request.set_ordered(request_.ordered);
  request.set_without_content(request_.without_content);
  TURBOFLEET_RETURN_IF_ERROR(dependencies_.jobs->WatchJob(
      request, retrier_.NextCall(), [this](v1::WatchJobResponse* response) { return OnResponse(response); }));
  return CheckComplete();
}

absl::Status WatchCall::OnResponse(v1::WatchJobResponse* response) {
  // What is still on its way when the caller has had enough is not the caller's any more.
  TURBOFLEET_RETURN_IF_ERROR(retrier_.Check());
  const bool is_job = response->event_case() == v1::WatchJobResponse::kJob;
  if (!stream_started_ && !is_job) return ProtocolViolation("started a watch with something else than the job");
  stream_started_ = true;
  job_is_last_ = is_job;
  switch (response->event_case()) {
    case v1::WatchJobResponse::kJob:
      TURBOFLEET_RETURN_IF_ERROR(OnJob(response->job(), response->resume_token()));
      break;
    case v1::WatchJobResponse::kImage:
      TURBOFLEET_RETURN_IF_ERROR(OnImage(response->mutable_image(), response->resume_token()));
      break;
    case v1::WatchJobResponse::kFailure:
      TURBOFLEET_RETURN_IF_ERROR(OnFailure(response->failure(), response->resume_token()));
      break;
    case v1::WatchJobResponse::EVENT_NOT_SET:
      // An event of a later release that this one can do without.
      if (!response->resume_token().empty()) token_ = response->resume_token();
      break;
  }
  return ReleaseIfDue();
}

absl::Status WatchCall::OnJob(const v1::Job& proto, const std::string& token) {
  TURBOFLEET_ASSIGN_OR_RETURN(Job job, FromProto(proto));
  if (job.name != request_.name) {
    return ProtocolViolation(absl::StrCat("sent ", job.name, " to a watch of ", request_.name));
  }
  if (!job_.has_value()) {
    ended_.resize(static_cast<size_t>(job.image_count));
  } else if (job.image_count != job_->image_count || job.seeds_per_prompt != job_->seeds_per_prompt) {
    return ProtocolViolation(
        absl::StrCat("sent a job of ", job.image_count, " images that had ", job_->image_count, " before"));
  }
  waits_for_release_ = job.waits_for_release;
  // Every try starts with the job; the caller hears of it when there is news.
  const bool is_news = !job_.has_value() || !google::protobuf::util::MessageDifferencer::Equals(proto, job_proto_);
  if (!is_news) return absl::OkStatus();
  job_proto_ = proto;
  job_ = job;
  // Before the first image there may be nothing to go on from.
  return Deliver({.event = std::move(job), .resume_token = token.empty() ? token_ : token});
}

absl::Status WatchCall::OnImage(v1::Image* proto, const std::string& token) {
  TURBOFLEET_ASSIGN_OR_RETURN(Image image, TakeFromProto(proto));
  TURBOFLEET_RETURN_IF_ERROR(EndImage(image.index, image.seed, token));
  ++images_;
  image.prompt_index = image.index / job_->seeds_per_prompt;
  image.job = job_->name;
  unreleased_bytes_ += static_cast<int64_t>(image.content.size());
  TURBOFLEET_RETURN_IF_ERROR(Deliver({.event = std::move(image), .resume_token = token}));
  unreleased_ = true;
  return absl::OkStatus();
}

absl::Status WatchCall::OnFailure(const v1::ImageFailure& proto, const std::string& token) {
  ImageFailure failure = FromProto(proto);
  TURBOFLEET_RETURN_IF_ERROR(EndImage(failure.index, failure.seed, token));
  ++failures_;
  failure.prompt_index = failure.index / job_->seeds_per_prompt;
  TURBOFLEET_RETURN_IF_ERROR(Deliver({.event = std::move(failure), .resume_token = token}));
  unreleased_ = true;
  return absl::OkStatus();
}

absl::Status WatchCall::EndImage(int64_t index, uint64_t seed, const std::string& token) {
  if (index < 0 || index >= job_->image_count) {
    return ProtocolViolation(absl::StrCat("sent image ", index, " of a job of ", job_->image_count));
  }
  if (token.empty()) return ProtocolViolation(absl::StrCat("sent image ", index, " without a token to go on from"));
  const std::vector<uint64_t>& seeds = job_->accepted.seeds;
  const auto seed_index = static_cast<size_t>(index % job_->seeds_per_prompt);
  if (seed_index < seeds.size() && seeds[seed_index] != seed) {
    return ProtocolViolation(
        absl::StrCat("sent image ", index, " with seed ", seed, " instead of ", seeds[seed_index]));
  }
  if (ended_[static_cast<size_t>(index)]) return ProtocolViolation(absl::StrCat("sent image ", index, " twice"));
  if (request_.ordered && index < last_index_) {
    return ProtocolViolation(absl::StrCat("sent image ", index, " after image ", last_index_, " of an ordered watch"));
  }
  ended_[static_cast<size_t>(index)] = true;
  last_index_ = index;
  return absl::OkStatus();
}

absl::Status WatchCall::Deliver(WatchEvent event) {
  std::string token = event.resume_token;
  on_event_(std::move(event));
  if (options_.stop.stop_requested()) return absl::CancelledError("cancelled by the caller");
  token_ = std::move(token);
  stream_brought_ = true;
  return absl::OkStatus();
}

absl::Status WatchCall::CheckComplete() const {
  if (!job_is_last_ || !HasEnded(*job_)) return ProtocolViolation("ended a watch before the job");
  // What came before another watch's token is not known here.
  if (!request_.resume_token.empty()) return absl::OkStatus();
  // A picture that the coordinator has lost comes as a failure, so only the sum is certain.
  const bool complete = job_->state != JobState::kCompleted || images_ + failures_ == job_->image_count;
  if (complete && images_ + failures_ == job_->images_completed + job_->images_failed) return absl::OkStatus();
  return ProtocolViolation(absl::StrCat("ended a watch after ", images_, " images and ", failures_, " failures of ",
                                        job_->image_count, ", of which it completed ", job_->images_completed));
}

absl::Status WatchCall::ReleaseIfDue() {
  if (!options_.release_delivered || !unreleased_) return absl::OkStatus();
  // While the job waits, any byte may be the one that it waits for.
  if (unreleased_bytes_ < options_.release_bytes && !waits_for_release_) return absl::OkStatus();
  if (options_.before_release) TURBOFLEET_RETURN_IF_ERROR(options_.before_release(token_));
  const absl::Status status = Release(retrier_.NextCall()).status();
  // If it breaks, so will the stream, or the next image brings another chance.
  return IsBrokenStream(status) || RetryAfterOf(status).has_value() ? absl::OkStatus() : status;
}

absl::StatusOr<v1::Job> WatchCall::Release(const CallOptions& call) {
  v1::ReleaseImagesRequest request;
  request.set_name(request_.name);
  request.set_resume_token(token_);
  absl::StatusOr<v1::Job> job = dependencies_.jobs->ReleaseImages(request, call);
  if (!job.ok()) return job;
  unreleased_ = false;
  unreleased_bytes_ = 0;
  waits_for_release_ = job->waits_for_release();
  return job;
}

absl::Status WatchCall::ReleaseTheRest() {
  if (!options_.release_delivered || !unreleased_) return absl::OkStatus();
  if (options_.before_release) TURBOFLEET_RETURN_IF_ERROR(options_.before_release(token_));
  return retrier_.Call([this](const CallOptions& call) { return Release(call); }).status();
}

}  // namespace turbofleet::client
