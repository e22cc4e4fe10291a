#include "client/lib/jobs_stub.h"

#include "client/lib/grpc_call.h"
#include "google/protobuf/empty.pb.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet::client {
namespace {

class GrpcJobsStub : public JobsStub {
 public:
  explicit GrpcJobsStub(const std::shared_ptr<grpc::Channel>& channel) : stub_(v1::ImageService::NewStub(channel)) {}

  absl::StatusOr<v1::Job> CreateJob(const CallOptions& options,
                                    const std::function<bool(v1::CreateJobRequest* request)>& next) override {
    GrpcCall call(options);
    v1::Job job;
    const std::unique_ptr<grpc::ClientWriter<v1::CreateJobRequest>> writer = stub_->CreateJob(call.context(), &job);
    bool heard = true;
    for (v1::CreateJobRequest request; heard && next(&request); request.Clear()) heard = writer->Write(request);
    if (heard) writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (!status.ok()) return FromGrpcStatus(status);
    return job;
  }

  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request, const CallOptions& options) override {
    return CallUnary<v1::Job>(stub_.get(), &v1::ImageService::Stub::GetJob, request, options);
  }

  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                                const CallOptions& options) override {
    return CallUnary<v1::ListJobsResponse>(stub_.get(), &v1::ImageService::Stub::ListJobs, request, options);
  }

  absl::Status WatchJob(const v1::WatchJobRequest& request, const CallOptions& options,
                        const std::function<absl::Status(v1::WatchJobResponse* response)>& on_response) override {
    GrpcCall call(options);
    return ReadAll<v1::WatchJobResponse>(call.context(), stub_->WatchJob(call.context(), request), on_response);
  }

  absl::StatusOr<v1::Job> ReleaseImages(const v1::ReleaseImagesRequest& request, const CallOptions& options) override {
    return CallUnary<v1::Job>(stub_.get(), &v1::ImageService::Stub::ReleaseImages, request, options);
  }

  absl::StatusOr<v1::Job> CancelJob(const v1::CancelJobRequest& request, const CallOptions& options) override {
    return CallUnary<v1::Job>(stub_.get(), &v1::ImageService::Stub::CancelJob, request, options);
  }

  absl::Status DeleteJob(const v1::DeleteJobRequest& request, const CallOptions& options) override {
    return CallUnary<google::protobuf::Empty>(stub_.get(), &v1::ImageService::Stub::DeleteJob, request, options)
        .status();
  }

 private:
  const std::unique_ptr<v1::ImageService::Stub> stub_;
};

}  // namespace

std::unique_ptr<JobsStub> MakeGrpcJobsStub(const std::shared_ptr<grpc::Channel>& channel) {
  return std::make_unique<GrpcJobsStub>(channel);
}

}  // namespace turbofleet::client
