// turbofleet.v1.ImageService over a Dispatcher.
#pragma once

#include "coordinator/service/job_calls.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet {

// Translates and posts; decides nothing and never blocks. Thread-safe. What it is given outlives it.
class ImageServiceImpl : public v1::ImageService::CallbackService {
 public:
  // Without `parts.desk` there are no durable jobs, and their calls are refused.
  explicit ImageServiceImpl(const JobCallParts& parts) : parts_(parts) {}

  grpc::ServerWriteReactor<v1::GenerateImagesResponse>* GenerateImages(
      grpc::CallbackServerContext* context, const v1::GenerateImagesRequest* request) override;
  grpc::ServerReadReactor<v1::CreateJobRequest>* CreateJob(grpc::CallbackServerContext* context,
                                                           v1::Job* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(grpc::CallbackServerContext* context,
                                                           const v1::WatchJobRequest* request) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const v1::GetJobRequest* request,
                                   v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context, const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseImages(grpc::CallbackServerContext* context, const v1::ReleaseImagesRequest* request,
                                          v1::Job* response) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context, const v1::CancelJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context, const v1::DeleteJobRequest* request,
                                      google::protobuf::Empty* response) override;

 private:
  const JobCallParts parts_;
};

}  // namespace turbofleet
