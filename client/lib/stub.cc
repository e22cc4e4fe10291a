#include "client/lib/stub.h"

#include <chrono>
#include <utility>

#include "common/errors.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"
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
    grpc::ClientContext context;
    SetDeadline(options, &context);
    const std::stop_callback cancel(options.stop, [&context] { context.TryCancel(); });
    const std::unique_ptr<grpc::ClientReader<v1::GenerateImagesResponse>> reader =
        images_->GenerateImages(&context, request);
    absl::Status refused;
    v1::GenerateImagesResponse response;
    while (reader->Read(&response)) {
      refused = on_response(&response);
      if (!refused.ok()) {
        context.TryCancel();
        break;
      }
    }
    const grpc::Status status = reader->Finish();
    return refused.ok() ? FromGrpcStatus(status) : refused;
  }

  absl::StatusOr<v1::Cluster> GetCluster(const CallOptions& options) override {
    grpc::ClientContext context;
    SetDeadline(options, &context);
    const std::stop_callback cancel(options.stop, [&context] { context.TryCancel(); });
    v1::Cluster response;
    const grpc::Status status = cluster_->GetCluster(&context, v1::GetClusterRequest(), &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& request,
                                                      const CallOptions& options) override {
    grpc::ClientContext context;
    SetDeadline(options, &context);
    const std::stop_callback cancel(options.stop, [&context] { context.TryCancel(); });
    v1::ListWorkersResponse response;
    const grpc::Status status = cluster_->ListWorkers(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

 private:
  static void SetDeadline(const CallOptions& options, grpc::ClientContext* context) {
    if (!options.timeout.has_value()) return;
    context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(*options.timeout));
  }

  const std::unique_ptr<v1::ImageService::Stub> images_;
  const std::unique_ptr<v1::ClusterService::Stub> cluster_;
};

}  // namespace

std::unique_ptr<Stub> MakeGrpcStub(std::shared_ptr<grpc::Channel> channel) {
  return std::make_unique<GrpcStub>(channel);
}

}  // namespace turbofleet::client
