#include "client/lib/stub.h"

#include "client/lib/grpc_call.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet::client {
namespace {

class GrpcStub : public Stub {
 public:
  explicit GrpcStub(const std::shared_ptr<grpc::Channel>& channel)
      : images_(v1::ImageService::NewStub(channel)), cluster_(v1::ClusterService::NewStub(channel)) {}

  absl::Status GenerateImages(
      const v1::GenerateImagesRequest& request, const CallOptions& options,
      const std::function<absl::Status(v1::GenerateImagesResponse* response)>& on_response) override {
    GrpcCall call(options);
    return ReadAll<v1::GenerateImagesResponse>(call.context(), images_->GenerateImages(call.context(), request),
                                               on_response);
  }

  absl::StatusOr<v1::Cluster> GetCluster(const CallOptions& options) override {
    return CallUnary<v1::Cluster>(cluster_.get(), &v1::ClusterService::Stub::GetCluster, v1::GetClusterRequest(),
                                  options);
  }

  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& request,
                                                      const CallOptions& options) override {
    return CallUnary<v1::ListWorkersResponse>(cluster_.get(), &v1::ClusterService::Stub::ListWorkers, request, options);
  }

 private:
  const std::unique_ptr<v1::ImageService::Stub> images_;
  const std::unique_ptr<v1::ClusterService::Stub> cluster_;
};

}  // namespace

std::unique_ptr<Stub> MakeGrpcStub(std::shared_ptr<grpc::Channel> channel) {
  return std::make_unique<GrpcStub>(channel);
}

}  // namespace turbofleet::client
