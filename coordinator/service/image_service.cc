#include "coordinator/service/image_service.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/errors.h"
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
    writer_.Push(AcceptedProto(*Spec()));
  }
  void PostImage(FinishedImage image) override { writer_.Push(ImageProto(*Spec(), std::move(image))); }
  void PostFailure(UnfinishedImage image) override { writer_.Push(FailureProto(*Spec(), image)); }
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
  GenerateImagesReactor(Dispatcher* dispatcher, RpcObserver* observer, grpc::CallbackServerContext* context)
      : dispatcher_(dispatcher),
        observer_(observer),
        context_(context),
        call_(observer, kGenerateImages),
        watch_(std::make_shared<GenerateImagesWatch>(this, context)) {}

  void Start(const v1::GenerateImagesRequest& request) {
    absl::StatusOr<JobRequest> job = ParseGenerateImagesRequest(request);
    absl::Status status = job.status();
    if (job.ok()) status = dispatcher_->StartJob(*std::move(job), watch_).status();
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

  Dispatcher* const dispatcher_;
  RpcObserver* const observer_;
  grpc::CallbackServerContext* const context_;
  ObservedCall call_;
  const std::shared_ptr<GenerateImagesWatch> watch_;
};

}  // namespace

ImageReactor* ImageServiceImpl::GenerateImages(grpc::CallbackServerContext* context,
                                               const v1::GenerateImagesRequest* request) {
  auto* reactor = new GenerateImagesReactor(dispatcher_, observer_, context);  // Deletes itself in OnDone().
  reactor->Start(*request);
  return reactor;
}

}  // namespace turbofleet
