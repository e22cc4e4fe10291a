// turbofleet.v1.ImageService over a Dispatcher.
#pragma once

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/service/rpc_observer.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet {

// Translates and posts; decides nothing and never blocks. Thread-safe. What it is given outlives it.
class ImageServiceImpl : public v1::ImageService::CallbackService {
 public:
  ImageServiceImpl(Dispatcher* dispatcher, RpcObserver* observer) : dispatcher_(dispatcher), observer_(observer) {}

  grpc::ServerWriteReactor<v1::GenerateImagesResponse>* GenerateImages(
      grpc::CallbackServerContext* context, const v1::GenerateImagesRequest* request) override;

 private:
  Dispatcher* const dispatcher_;
  RpcObserver* const observer_;
};

}  // namespace turbofleet
