// WatchJob: reads a job's results as fast as its client takes them, and no faster.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/errors.h"
#include "common/status.h"
#include "coordinator/service/job_calls.h"
#include "coordinator/service/stream_writer.h"
#include "coordinator/service/translate.h"
#include "coordinator/service/validate.h"
#include "coordinator/service/validate_jobs.h"

namespace turbofleet {
namespace {

using WatchReactor = grpc::ServerWriteReactor<v1::WatchJobResponse>;

constexpr RpcObserver::Method kWatchJob = {
    .type = "server_stream", .service = "turbofleet.v1.ImageService", .method = "WatchJob"};
constexpr absl::Duration kJobEventInterval = absl::Seconds(1);

// The state of one stream. Outlives its reactor for as long as the dispatcher or the reader holds it.
//
// One read of results is under way, or what it brought is being sent, never both: so a stream holds one piece of
// ResultReader::Request::bytes_max at most, however slow its client is.
class Follower : public JobFollower, public std::enable_shared_from_this<Follower> {
 public:
  Follower(const JobCallParts& parts, WatchReactor* reactor) : parts_(parts), writer_(reactor) {}

  void Begin(const std::string& tenant, const std::string& job, WatchPosition position, bool with_content) {
    {
      absl::MutexLock lock(&mu_);
      job_ = job;
      position_ = position;
      with_content_ = with_content;
    }
    // Followed before it is looked up, so that no change falls between the two.
    parts_.dispatcher->Follow(job, shared_from_this());
    parts_.desk->Get(tenant, job, [self = shared_from_this()](const absl::StatusOr<JobView>& view) {
      if (view.ok()) {
        self->Found(*view);
      } else {
        self->End(view.status());
      }
    });
  }

  void PostRecord(const JobRecord& record, bool waits_for_release) override {
    absl::MutexLock lock(&mu_);
    Take({.record = record, .waits_for_release = waits_for_release});
  }
  void PostEnd(const absl::Status& status) override { writer_.PushEnd(ToGrpcStatus(status)); }
  void Flush() override {
    Pump();
    writer_.Flush();
  }

  void WriteDone(bool ok) {
    writer_.WriteDone(ok);
    Flush();
  }

  void End(const absl::Status& status) {
    writer_.PushEnd(ToGrpcStatus(status));
    writer_.Flush();
  }

  void Leave() {
    std::string job;
    {
      absl::MutexLock lock(&mu_);
      job = job_;
    }
    if (!job.empty()) parts_.dispatcher->Unfollow(job, shared_from_this());
  }

  grpc::Status end() const { return writer_.End(); }

 private:
  void Found(const JobView& view) {
    {
      absl::MutexLock lock(&mu_);
      Take(view);
      found_ = true;
      const int64_t last = position_.ordered ? view.record.spec->ImageCount() : view.record.LastSequence();
      if (position_.position > last) {
        writer_.PushEnd(ToGrpcStatus(InvalidField("resume_token", "was not given out for this job")));
      } else {
        PushJob();
      }
    }
    Flush();
  }

  // What is known of the job. Of two records the later one stays.
  void Take(const JobView& view) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const JobRecord& record = view.record;
    const bool newer = !view_.has_value() || record.state != JobState::kRunning ||
                       (Record().state == JobState::kRunning && record.LastSequence() >= Record().LastSequence());
    if (newer) view_ = view;
  }

  const JobRecord& Record() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return view_->record; }

  bool CaughtUp() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!position_.ordered) return position_.position >= Record().LastSequence();
    // After a read that brought nothing, only another commit can bring something.
    return position_.position >= Record().spec->ImageCount() || nothing_at_ == Record().LastSequence();
  }

  void PushJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    v1::WatchJobResponse response;
    *response.mutable_job() = JobProto(*view_);
    response.set_resume_token(ResumeToken(job_, position_));
    told_sequence_ = Record().LastSequence();
    told_waits_ = view_->waits_for_release;
    told_at_ = absl::Now();
    writer_.Push(std::move(response));
  }

  // Does the next thing, if nothing is going on.
  void Pump() {
    ResultReader::Request request;
    {
      absl::MutexLock lock(&mu_);
      if (!found_ || reading_ || ended_ || writer_.Waiting() > 0) return;
      if (CaughtUp()) {
        if (Record().state != JobState::kRunning) {
          PushJob();
          writer_.PushEnd(grpc::Status::OK);
          ended_ = true;
        } else if (view_->waits_for_release != told_waits_ ||
                   (Record().LastSequence() > told_sequence_ && absl::Now() - told_at_ >= kJobEventInterval)) {
          PushJob();
        }
        return;
      }
      reading_ = true;
      reading_at_ = Record().LastSequence();
      request = {.job = job_,
                 .ordered = position_.ordered,
                 .position = position_.position,
                 .with_content = with_content_,
                 .image_count = Record().spec->ImageCount()};
    }
    parts_.reader->Start(request, [self = shared_from_this()](absl::StatusOr<ResultReader::Result> result) {
      self->Read(std::move(result));
    });
  }

  void Read(absl::StatusOr<ResultReader::Result> result) {
    if (!result.ok()) {
      End(ExplainStore(result.status()));
      return;
    }
    {
      absl::MutexLock lock(&mu_);
      reading_ = false;
      if (result->images.empty()) nothing_at_ = reading_at_;
      for (ResultReader::Read& image : result->images) Push(std::move(image));
      position_.position = result->position;
    }
    Flush();
  }

  void Push(ResultReader::Read image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    v1::WatchJobResponse response;
    int64_t index = 0;
    if (auto* finished = std::get_if<FinishedImage>(&image.outcome)) {
      index = finished->index;
      *response.mutable_image() = ImageProto(*Record().spec, std::move(*finished));
    } else {
      const auto& failed = std::get<UnfinishedImage>(image.outcome);
      index = failed.index;
      *response.mutable_failure() = FailureProto(*Record().spec, failed);
    }
    const int64_t next = position_.ordered ? index + 1 : image.sequence;
    response.set_resume_token(ResumeToken(job_, {.ordered = position_.ordered, .position = next}));
    writer_.Push(std::move(response));
  }

  const JobCallParts parts_;
  StreamWriter<WatchReactor, v1::WatchJobResponse> writer_;
  absl::Mutex mu_;
  std::string job_ ABSL_GUARDED_BY(mu_);
  WatchPosition position_ ABSL_GUARDED_BY(mu_);
  bool with_content_ ABSL_GUARDED_BY(mu_) = true;
  std::optional<JobView> view_ ABSL_GUARDED_BY(mu_);
  bool found_ ABSL_GUARDED_BY(mu_) = false;  // The client may see the job.
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  int64_t reading_at_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t nothing_at_ ABSL_GUARDED_BY(mu_) = -1;  // LastSequence() when a read brought nothing.
  int64_t told_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  bool told_waits_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time told_at_ ABSL_GUARDED_BY(mu_);
};

class WatchJobReactor : public WatchReactor {
 public:
  WatchJobReactor(const JobCallParts& parts, const grpc::CallbackServerContext& context)
      : parts_(parts),
        context_(context),
        call_(parts.observer, kWatchJob),
        follower_(std::make_shared<Follower>(parts, this)) {}

  void Start(const v1::WatchJobRequest& request) {
    if (const absl::Status status = Begin(request); !status.ok()) {
      if (const std::string reason = ReasonOf(status); !reason.empty()) parts_.observer->OnRefused(reason);
      follower_->End(status);
    }
  }

  void OnWriteDone(bool ok) override { follower_->WriteDone(ok); }
  void OnCancel() override { follower_->End(absl::CancelledError("the client cancelled the call")); }
  void OnDone() override {
    follower_->Leave();
    call_.Handled(follower_->end().error_code());
    delete this;
  }

 private:
  absl::Status Begin(const v1::WatchJobRequest& request) {
    TURBOFLEET_ASSIGN_OR_RETURN(const std::string tenant, parts_.tenants->Of(context_));
    TURBOFLEET_RETURN_IF_ERROR(CheckUnknownFields(request));
    TURBOFLEET_ASSIGN_OR_RETURN(const std::string job, ParseJobName(request.name()));
    TURBOFLEET_ASSIGN_OR_RETURN(const WatchPosition position,
                                ParseResumeToken(job, request.resume_token(), request.ordered()));
    if (position.ordered != request.ordered()) {
      return InvalidField("resume_token", "was given out for another order");
    }
    follower_->Begin(tenant, job, position, !request.without_content());
    return absl::OkStatus();
  }

  const JobCallParts parts_;
  const grpc::CallbackServerContext& context_;
  ObservedCall call_;
  const std::shared_ptr<Follower> follower_;
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchJobResponse>* StartWatchJob(const JobCallParts& parts,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::WatchJobRequest* request) {
  auto* reactor = new WatchJobReactor(parts, *context);  // Deletes itself in OnDone().
  reactor->Start(*request);
  return reactor;
}

}  // namespace turbofleet
