#include "coordinator/service/image_service.h"

#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/errors.h"
#include "common/status.h"
#include "coordinator/service/stream_writer.h"
#include "coordinator/service/translate.h"
#include "coordinator/service/validate.h"

namespace turbofleet {
namespace {

using ImageReactor = grpc::ServerWriteReactor<v1::GenerateImagesResponse>;

constexpr RpcObserver::Method kGenerateImages = {
    .type = "server_stream", .service = "turbofleet.v1.ImageService", .method = "GenerateImages"};

// The client's end of a job. Outlives the reactor for as long as the dispatcher holds it.
class GenerateImagesWatch : public JobWatch {
 public:
  GenerateImagesWatch(ImageReactor* reactor, grpc::CallbackServerContext* context)
      : writer_(reactor), context_(context) {}

  void PostAccepted(JobId id, std::shared_ptr<const JobSpec> spec) override {
    {
      absl::MutexLock lock(&mu_);
      id_ = id;
      spec_ = std::move(spec);
    }
    v1::GenerateImagesResponse response;
    *response.mutable_accepted() = AcceptedProto(*Spec(), std::numeric_limits<int32_t>::max());
    writer_.Push(std::move(response));
  }
  void PostImage(FinishedImage image) override {
    v1::GenerateImagesResponse response;
    *response.mutable_image() = ImageProto(*Spec(), std::move(image));
    writer_.Push(std::move(response));
  }
  void PostFailure(UnfinishedImage image) override {
    v1::GenerateImagesResponse response;
    *response.mutable_failure() = FailureProto(*Spec(), image);
    writer_.Push(std::move(response));
  }
  void PostEnd(const absl::Status& status) override { writer_.PushEnd(ToGrpcStatus(status)); }
  void PostBreak() override {
    absl::MutexLock lock(&mu_);
    break_ = true;
  }
  void Flush() override {
    {
      absl::MutexLock lock(&mu_);
      if (break_ && context_ != nullptr) context_->TryCancel();
    }
    writer_.Flush();
  }

  // The context goes with the reactor.
  void Detach() {
    absl::MutexLock lock(&mu_);
    context_ = nullptr;
  }

  std::optional<JobId> id() const {
    absl::MutexLock lock(&mu_);
    return id_;
  }
  StreamWriter<ImageReactor, v1::GenerateImagesResponse>& writer() { return writer_; }

 private:
  std::shared_ptr<const JobSpec> Spec() const {
    absl::MutexLock lock(&mu_);
    return spec_;
  }

  StreamWriter<ImageReactor, v1::GenerateImagesResponse> writer_;
  mutable absl::Mutex mu_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mu_);
  std::optional<JobId> id_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const JobSpec> spec_ ABSL_GUARDED_BY(mu_);
  bool break_ ABSL_GUARDED_BY(mu_) = false;
};

class GenerateImagesReactor : public ImageReactor {
 public:
  GenerateImagesReactor(const JobCallParts& parts, grpc::CallbackServerContext* context)
      : dispatcher_(parts.dispatcher),
        observer_(parts.observer),
        tenants_(parts.tenants),
        context_(context),
        call_(parts.observer, kGenerateImages),
        watch_(std::make_shared<GenerateImagesWatch>(this, context)) {}

  void Start(const v1::GenerateImagesRequest& request) {
    const absl::Status status = Admit(request);
    if (status.ok()) return;
    observer_->OnRefused(ReasonOf(status));
    End(ToGrpcStatus(status));
  }

  void OnWriteDone(bool ok) override {
    const std::optional<v1::GenerateImagesResponse> sent = watch_->writer().WriteDone(ok);
    const std::optional<JobId> id = watch_->id();
    if (!id.has_value()) return;
    if (!sent.has_value()) {
      dispatcher_->CloseJob(*id);
    } else if (!sent->has_accepted()) {
      dispatcher_->ImageSent(*id, static_cast<int64_t>(sent->image().content().size()));
    }
  }

  void OnCancel() override {
    const std::optional<JobId> id = watch_->id();
    if (id.has_value()) dispatcher_->CloseJob(*id);
    const bool late = context_->deadline() <= std::chrono::system_clock::now();
    End(late ? grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the call's deadline has passed")
             : grpc::Status(grpc::StatusCode::CANCELLED, "the client cancelled the call"));
  }

  void OnDone() override {
    watch_->Detach();
    const std::optional<JobId> id = watch_->id();
    if (id.has_value()) dispatcher_->CloseJob(*id);
    call_.Handled(watch_->writer().End().error_code());
    delete this;
  }

 private:
  void End(grpc::Status status) {
    watch_->writer().PushEnd(std::move(status));
    watch_->writer().Flush();
  }

  absl::Status Admit(const v1::GenerateImagesRequest& request) {
    TURBOFLEET_ASSIGN_OR_RETURN(std::string tenant, tenants_->Of(*context_));
    TURBOFLEET_ASSIGN_OR_RETURN(JobRequest job, ParseGenerateImagesRequest(request));
    job.tenant = std::move(tenant);
    return dispatcher_->StartJob(std::move(job), watch_).status();
  }

  Dispatcher* const dispatcher_;
  RpcObserver* const observer_;
  Tenants const* const tenants_;
  grpc::CallbackServerContext* const context_;
  ObservedCall call_;
  const std::shared_ptr<GenerateImagesWatch> watch_;
};

// Refuses a call with a status, whatever its reactor.
template <typename Reactor>
class RefusedCall : public Reactor {
 public:
  explicit RefusedCall(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

absl::Status NoJobs() {
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_DATA_DIR",
                   "this coordinator keeps no jobs, because it was started without --data-dir");
}

}  // namespace

ImageReactor* ImageServiceImpl::GenerateImages(grpc::CallbackServerContext* context,
                                               const v1::GenerateImagesRequest* request) {
  auto* reactor = new GenerateImagesReactor(parts_, context);  // Deletes itself in OnDone().
  reactor->Start(*request);
  return reactor;
}

grpc::ServerReadReactor<v1::CreateJobRequest>* ImageServiceImpl::CreateJob(grpc::CallbackServerContext* context,
                                                                           v1::Job* response) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerReadReactor<v1::CreateJobRequest>>(NoJobs());
  return StartCreateJob(parts_, context, response);
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* ImageServiceImpl::WatchJob(grpc::CallbackServerContext* context,
                                                                           const v1::WatchJobRequest* request) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerWriteReactor<v1::WatchJobResponse>>(NoJobs());
  return StartWatchJob(parts_, context, request);
}

grpc::ServerUnaryReactor* ImageServiceImpl::GetJob(grpc::CallbackServerContext* context,
                                                   const v1::GetJobRequest* request, v1::Job* response) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerUnaryReactor>(NoJobs());
  return StartGetJob(parts_, context, request, response);
}

grpc::ServerUnaryReactor* ImageServiceImpl::ListJobs(grpc::CallbackServerContext* context,
                                                     const v1::ListJobsRequest* request,
                                                     v1::ListJobsResponse* response) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerUnaryReactor>(NoJobs());
  return StartListJobs(parts_, context, request, response);
}

grpc::ServerUnaryReactor* ImageServiceImpl::ReleaseImages(grpc::CallbackServerContext* context,
                                                          const v1::ReleaseImagesRequest* request, v1::Job* response) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerUnaryReactor>(NoJobs());
  return StartReleaseImages(parts_, context, request, response);
}

grpc::ServerUnaryReactor* ImageServiceImpl::CancelJob(grpc::CallbackServerContext* context,
                                                      const v1::CancelJobRequest* request, v1::Job* response) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerUnaryReactor>(NoJobs());
  return StartCancelJob(parts_, context, request, response);
}

grpc::ServerUnaryReactor* ImageServiceImpl::DeleteJob(grpc::CallbackServerContext* context,
                                                      const v1::DeleteJobRequest* request,
                                                      google::protobuf::Empty* response) {
  if (parts_.desk == nullptr) return new RefusedCall<grpc::ServerUnaryReactor>(NoJobs());
  return StartDeleteJob(parts_, context, request, response);
}

}  // namespace turbofleet
