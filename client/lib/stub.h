// The wire: one method per RPC, in protos, with statuses that carry all details. No retries, no defaults.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "turbofleet/v1/cluster_service.pb.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet::client {

struct CallOptions {
  std::optional<absl::Duration> timeout;
  std::stop_token stop;  // Cancels the call, from any thread.
};

// Thread-safe.
class Stub {
 public:
  virtual ~Stub() = default;

  // Blocks until the stream ends; calls `on_response` for each message. An error of `on_response` cancels the call and
  // is what comes back.
  virtual absl::Status GenerateImages(
      const v1::GenerateImagesRequest& request, const CallOptions& options,
      const std::function<absl::Status(v1::GenerateImagesResponse* response)>& on_response) = 0;

  virtual absl::StatusOr<v1::Cluster> GetCluster(const CallOptions& options) = 0;

  virtual absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& request,
                                                              const CallOptions& options) = 0;
};

std::unique_ptr<Stub> MakeGrpcStub(std::shared_ptr<grpc::Channel> channel);

}  // namespace turbofleet::client
