// turbofleet.internal.worker.v1.WorkerService over a Dispatcher.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/service/rpc_observer.h"
#include "turbofleet/internal/worker/v1/worker_service.grpc.pb.h"

namespace turbofleet {

// The open streams of deliveries, so that a shutdown can end them: no decision ever does. Thread-safe.
class OpenDeliveries;

// Translates and posts; decides nothing and never blocks. Thread-safe. What it is given outlives it.
class WorkerServiceImpl : public internal::worker::v1::WorkerService::CallbackService {
 public:
  WorkerServiceImpl(Dispatcher* dispatcher, RpcObserver* observer);
  ~WorkerServiceImpl() override;

  grpc::ServerBidiReactor<internal::worker::v1::SessionRequest, internal::worker::v1::SessionResponse>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<internal::worker::v1::DeliverImagesRequest, internal::worker::v1::DeliverImagesResponse>*
  DeliverImages(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetInput(grpc::CallbackServerContext* context,
                                     const internal::worker::v1::GetInputRequest* request,
                                     internal::worker::v1::GetInputResponse* response) override;

  // Ends the streams of deliveries, those to come too. Sessions are the dispatcher's to end.
  void EndDeliveries(const absl::Status& status);

 private:
  Dispatcher* const dispatcher_;
  RpcObserver* const observer_;
  const std::shared_ptr<OpenDeliveries> deliveries_;
};

}  // namespace turbofleet
