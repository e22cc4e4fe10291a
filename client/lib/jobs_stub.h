// The wire of jobs, as Stub is for all else: one method per RPC, no retries, no defaults.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/lib/stub.h"
#include "grpcpp/channel.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet::client {

// Thread-safe.
class JobsStub {
 public:
  virtual ~JobsStub() = default;

  // Sends what `next` fills in, until it returns false or the other side has heard enough.
  virtual absl::StatusOr<v1::Job> CreateJob(const CallOptions& options,
                                            const std::function<bool(v1::CreateJobRequest* request)>& next) = 0;
  virtual absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                                        const CallOptions& options) = 0;
  // As GenerateImages of Stub.
  virtual absl::Status WatchJob(const v1::WatchJobRequest& request, const CallOptions& options,
                                const std::function<absl::Status(v1::WatchJobResponse* response)>& on_response) = 0;
  virtual absl::StatusOr<v1::Job> ReleaseImages(const v1::ReleaseImagesRequest& request,
                                                const CallOptions& options) = 0;
  virtual absl::StatusOr<v1::Job> CancelJob(const v1::CancelJobRequest& request, const CallOptions& options) = 0;
  virtual absl::Status DeleteJob(const v1::DeleteJobRequest& request, const CallOptions& options) = 0;
};

std::unique_ptr<JobsStub> MakeGrpcJobsStub(const std::shared_ptr<grpc::Channel>& channel);

}  // namespace turbofleet::client
