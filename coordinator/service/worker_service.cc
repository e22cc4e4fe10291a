#include "coordinator/service/worker_service.h"

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/errors.h"
#include "coordinator/service/stream_writer.h"
#include "coordinator/service/translate.h"
#include "coordinator/service/validate.h"

namespace turbofleet {
namespace {

namespace worker_pb = internal::worker::v1;

using SessionBase = grpc::ServerBidiReactor<worker_pb::SessionRequest, worker_pb::SessionResponse>;
using DeliverBase = grpc::ServerBidiReactor<worker_pb::DeliverImagesRequest, worker_pb::DeliverImagesResponse>;

constexpr char kService[] = "turbofleet.internal.worker.v1.WorkerService";
constexpr RpcObserver::Method kSession = {.type = "bidi_stream", .service = kService, .method = "Session"};
constexpr RpcObserver::Method kDeliverImages = {.type = "bidi_stream", .service = kService, .method = "DeliverImages"};
constexpr RpcObserver::Method kGetInput = {.type = "unary", .service = kService, .method = "GetInput"};

// Acknowledgements that a worker has not read. It gets no further ones, and sends no further pictures, beyond this.
constexpr size_t kAcknowledgementsUnsentMax = 64;

absl::Status OutOfOrder(const char* description) {
  return MakeError(absl::StatusCode::kInvalidArgument, "MALFORMED_MESSAGE", description);
}

// The dispatcher's end of a worker's stream. Outlives the reactor for as long as the dispatcher holds it.
class SessionSink : public WorkerSession {
 public:
  explicit SessionSink(SessionBase* reactor) : writer_(reactor) {}

  void PostWelcome(const SessionTerms& terms) override { writer_.Push(WelcomeProto(terms)); }
  void PostBatch(const BatchToRender& batch) override { writer_.Push(BatchProto(batch)); }
  void PostAbandon(LeaseId lease, const std::vector<int32_t>& slots) override {
    writer_.Push(AbandonProto(lease, slots));
  }
  void PostClose(const absl::Status& status) override { writer_.PushEnd(ToGrpcStatus(status)); }
  void Flush() override { writer_.Flush(); }

  StreamWriter<SessionBase, worker_pb::SessionResponse>& writer() { return writer_; }

 private:
  StreamWriter<SessionBase, worker_pb::SessionResponse> writer_;
};

class SessionReactor : public SessionBase {
 public:
  SessionReactor(Dispatcher* dispatcher, RpcObserver* observer)
      : dispatcher_(dispatcher), call_(observer, kSession), sink_(std::make_shared<SessionSink>(this)) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    const absl::Status status = ok ? Receive() : absl::OkStatus();
    if (ok && status.ok()) {
      StartRead(&request_);
    } else {
      Leave(status, ToGrpcStatus(status));
    }
  }

  void OnWriteDone(bool ok) override { sink_->writer().WriteDone(ok); }

  void OnCancel() override {
    Leave(absl::CancelledError("the worker is gone"), grpc::Status(grpc::StatusCode::CANCELLED, "the worker is gone"));
  }

  void OnDone() override {
    EndSession(absl::CancelledError("the stream is over"));
    call_.Handled(sink_->writer().End().error_code());
    delete this;
  }

 private:
  absl::Status Receive() {
    if (request_.has_hello()) {
      if (session().has_value()) return OutOfOrder("hello: is the first message only");
      const absl::StatusOr<WorkerIdentity> identity = ParseHello(request_.hello());
      if (!identity.ok()) return identity.status();
      const absl::StatusOr<std::vector<HeldImage>> held = ParseHeld(request_.hello());
      if (!held.ok()) return held.status();
      const absl::StatusOr<SessionId> id = dispatcher_->OpenSession(*identity, sink_, *held);
      if (!id.ok()) return id.status();
      absl::MutexLock lock(&mu_);
      session_ = *id;
      return absl::OkStatus();
    }
    if (!request_.has_report()) return OutOfOrder("message: is not set");
    const std::optional<SessionId> id = session();
    if (!id.has_value()) return OutOfOrder("report: comes before hello");
    const absl::StatusOr<WorkerReport> report = ParseReport(request_.report());
    if (!report.ok()) return report.status();
    return dispatcher_->Report(*id, *report);
  }

  std::optional<SessionId> session() const {
    absl::MutexLock lock(&mu_);
    return session_;
  }

  void EndSession(const absl::Status& status) {
    const std::optional<SessionId> id = session();
    if (id.has_value()) dispatcher_->EndSession(*id, status);
  }

  // Gives the worker's images to others and finishes the stream, whatever the dispatcher has said to it before.
  void Leave(const absl::Status& status, grpc::Status end) {
    EndSession(status);
    sink_->writer().PushEnd(std::move(end));
    sink_->writer().Flush();
  }

  Dispatcher* const dispatcher_;
  ObservedCall call_;
  const std::shared_ptr<SessionSink> sink_;
  worker_pb::SessionRequest request_;  // Belongs to the read under way.
  mutable absl::Mutex mu_;
  std::optional<SessionId> session_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

class OpenDeliveries {
 public:
  using Writer = StreamWriter<DeliverBase, worker_pb::DeliverImagesResponse>;

  void Add(const std::shared_ptr<Writer>& writer) {
    {
      absl::MutexLock lock(&mu_);
      if (!end_.has_value()) {
        writers_.insert(writer);
        return;
      }
      writer->PushEnd(*end_);
    }
    writer->Flush();
  }

  void Remove(const std::shared_ptr<Writer>& writer) {
    absl::MutexLock lock(&mu_);
    writers_.erase(writer);
  }

  void End(const grpc::Status& status) {
    std::set<std::shared_ptr<Writer>> writers;
    {
      absl::MutexLock lock(&mu_);
      end_ = status;
      writers.swap(writers_);
    }
    for (const auto& writer : writers) {
      writer->PushEnd(status);
      writer->Flush();
    }
  }

 private:
  absl::Mutex mu_;
  std::set<std::shared_ptr<Writer>> writers_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
};

namespace {

class DeliverImagesReactor : public DeliverBase {
 public:
  DeliverImagesReactor(Dispatcher* dispatcher, RpcObserver* observer, std::shared_ptr<OpenDeliveries> deliveries)
      : dispatcher_(dispatcher),
        call_(observer, kDeliverImages),
        deliveries_(std::move(deliveries)),
        writer_(std::make_shared<OpenDeliveries::Writer>(this)) {
    StartRead(&request_);
    deliveries_->Add(writer_);
  }

  void OnReadDone(bool ok) override {
    const absl::Status status = ok ? Receive() : absl::OkStatus();
    if (!ok || !status.ok()) {
      writer_->PushEnd(ToGrpcStatus(status));
    } else {
      ReadOn();
    }
    writer_->Flush();
  }

  void OnWriteDone(bool ok) override {
    if (ok) ReadOnIfHeld();
    writer_->WriteDone(ok);
  }

  void OnCancel() override {
    writer_->PushEnd(grpc::Status(grpc::StatusCode::CANCELLED, "the worker is gone"));
    writer_->Flush();
  }

  void OnDone() override {
    deliveries_->Remove(writer_);
    call_.Handled(writer_->End().error_code());
    delete this;
  }

 private:
  absl::Status Receive() {
    absl::StatusOr<RenderOutcome> outcome = ParseOutcome(&request_);
    if (!outcome.ok()) {
      // A worker that cannot be understood would hold its images for ever.
      dispatcher_->EndSession(request_.session(), outcome.status());
      return outcome.status();
    }
    worker_pb::DeliverImagesResponse response;
    response.set_lease(request_.lease());
    response.set_slot(request_.slot());
    response.set_accepted(
        dispatcher_->Deliver(request_.session(), LeaseId{request_.lease()}, request_.slot(), *std::move(outcome)));
    writer_->Push(std::move(response));
    return absl::OkStatus();
  }

  void ReadOn() {
    {
      absl::MutexLock lock(&mu_);
      held_ = writer_->Waiting() > kAcknowledgementsUnsentMax;
      if (held_) return;
    }
    StartRead(&request_);
  }

  void ReadOnIfHeld() {
    {
      absl::MutexLock lock(&mu_);
      if (!held_) return;
      held_ = false;
    }
    StartRead(&request_);
  }

  Dispatcher* const dispatcher_;
  ObservedCall call_;
  const std::shared_ptr<OpenDeliveries> deliveries_;
  const std::shared_ptr<OpenDeliveries::Writer> writer_;
  worker_pb::DeliverImagesRequest request_;  // Belongs to the read under way.
  absl::Mutex mu_;
  bool held_ ABSL_GUARDED_BY(mu_) = false;  // Reading waits for the worker to take its acknowledgements.
};

}  // namespace

WorkerServiceImpl::WorkerServiceImpl(Dispatcher* dispatcher, RpcObserver* observer)
    : dispatcher_(dispatcher), observer_(observer), deliveries_(std::make_shared<OpenDeliveries>()) {}

WorkerServiceImpl::~WorkerServiceImpl() = default;

void WorkerServiceImpl::EndDeliveries(const absl::Status& status) { deliveries_->End(ToGrpcStatus(status)); }

SessionBase* WorkerServiceImpl::Session(grpc::CallbackServerContext* /*context*/) {
  return new SessionReactor(dispatcher_, observer_);  // Deletes itself in OnDone().
}

DeliverBase* WorkerServiceImpl::DeliverImages(grpc::CallbackServerContext* /*context*/) {
  return new DeliverImagesReactor(dispatcher_, observer_, deliveries_);  // Deletes itself in OnDone().
}

grpc::ServerUnaryReactor* WorkerServiceImpl::GetInput(grpc::CallbackServerContext* context,
                                                      const worker_pb::GetInputRequest* request,
                                                      worker_pb::GetInputResponse* response) {
  ObservedCall call(observer_, kGetInput);
  const absl::StatusOr<std::shared_ptr<const std::string>> content = dispatcher_->FindInput(request->sha256());
  if (content.ok()) response->set_content(**content);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(content.status()));
  call.Handled(static_cast<grpc::StatusCode>(content.status().code()));
  return reactor;
}

}  // namespace turbofleet
