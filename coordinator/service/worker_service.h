// turbofleet.internal.worker.v1.WorkerService over a Dispatcher.
#pragma once

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/service/rpc_observer.h"
#include "turbofleet/internal/worker/v1/worker_service.grpc.pb.h"

namespace turbofleet {

// Translates and posts; decides nothing and never blocks. Thread-safe. What it is given outlives it.
class WorkerServiceImpl : public internal::worker::v1::WorkerService::CallbackService {
 public:
  WorkerServiceImpl(Dispatcher* dispatcher, RpcObserver* observer) : dispatcher_(dispatcher), observer_(observer) {}

  grpc::ServerBidiReactor<internal::worker::v1::SessionRequest, internal::worker::v1::SessionResponse>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<internal::worker::v1::DeliverImagesRequest, internal::worker::v1::DeliverImagesResponse>*
  DeliverImages(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetInput(grpc::CallbackServerContext* context,
                                     const internal::worker::v1::GetInputRequest* request,
                                     internal::worker::v1::GetInputResponse* response) override;

 private:
  Dispatcher* const dispatcher_;
  RpcObserver* const observer_;
};

}  // namespace turbofleet
