#include "worker/agent/input_fetcher.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/errors.h"

namespace turbofleet {

namespace wire = internal::worker::v1;

struct InputFetcher::Call {
  grpc::ClientContext context;
  wire::GetInputRequest request;
  wire::GetInputResponse response;
  std::function<void(absl::StatusOr<std::string>)> done;
};

InputFetcher::InputFetcher(const std::shared_ptr<grpc::Channel>& channel, absl::Duration timeout)
    : stub_(wire::WorkerService::NewStub(channel)), timeout_(timeout) {}

InputFetcher::~InputFetcher() {
  absl::MutexLock lock(&mu_);
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
  mu_.Await(absl::Condition(this, &InputFetcher::NoneUnderWay));
}

void InputFetcher::Fetch(const std::string& sha256, std::function<void(absl::StatusOr<std::string>)> done) {
  const auto call = std::make_shared<Call>();
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + timeout_));
  call->request.set_sha256(sha256);
  call->done = std::move(done);
  {
    absl::MutexLock lock(&mu_);
    contexts_.insert(&call->context);
  }
  stub_->async()->GetInput(&call->context, &call->request, &call->response, [this, call](const grpc::Status& ended) {
    absl::Status status = FromGrpcStatus(ended);
    if (!status.ok() && !absl::IsNotFound(status)) status = absl::UnavailableError(status.message());
    if (status.ok()) {
      call->done(std::move(*call->response.mutable_content()));
    } else {
      call->done(status);
    }
    Ended(&call->context);
  });
}

void InputFetcher::Ended(grpc::ClientContext* context) {
  absl::MutexLock lock(&mu_);
  contexts_.erase(context);
}

}  // namespace turbofleet
