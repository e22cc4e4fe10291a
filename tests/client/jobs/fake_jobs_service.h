// The coordinator of FakeJobs over gRPC.
#pragma once

#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "common/errors.h"
#include "grpcpp/server_context.h"
#include "tests/client/jobs/fake_jobs.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet::client {

inline grpc::Status NoSuchJob() {
  return ToGrpcStatus(MakeError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "there is no such job"));
}

// The job of FakeJobs, served; any other name is not found.
class FakeJobsService : public v1::ImageService::Service {
 public:
  grpc::Status CreateJob(grpc::ServerContext*, grpc::ServerReader<v1::CreateJobRequest>* reader,
                         v1::Job* response) override {
    v1::CreateJobRequest part;
    while (reader->Read(&part)) {
      if (part.has_job()) spec = part.job();
      for (const std::string& prompt : part.prompts().prompts()) {
        if (prompt == "refuse") return ToGrpcStatus(InvalidField("prompts[1]", "is refused"));
        ++prompts;
      }
    }
    *response = jobs.job;
    return grpc::Status::OK;
  }

  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request, v1::Job* response) override {
    return Find(request->name(), response);
  }

  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override {
    list_request = *request;
    *response->add_jobs() = jobs.job;
    if (request->page_token().empty()) response->set_next_page_token("more");
    return grpc::Status::OK;
  }

  grpc::Status WatchJob(grpc::ServerContext*, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    v1::Job job;
    if (const grpc::Status status = Find(request->name(), &job); !status.ok()) return status;
    std::vector<v1::WatchJobResponse> responses = jobs.Answer(*request);
    responses.back().mutable_job()->set_state(end_state);
    if (end_state != v1::Job::STATE_COMPLETED) responses.back().mutable_job()->clear_images_completed();
    if (is_silent) responses.resize(2);
    for (const v1::WatchJobResponse& response : responses) writer->Write(response);
    if (is_silent) test_ends.WaitForNotification();
    return grpc::Status::OK;
  }

  grpc::Status ReleaseImages(grpc::ServerContext*, const v1::ReleaseImagesRequest* request,
                             v1::Job* response) override {
    released.push_back(request->resume_token());
    return Find(request->name(), response);
  }

  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request, v1::Job* response) override {
    return Find(request->name(), response);
  }

  grpc::Status DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest* request, google::protobuf::Empty*) override {
    v1::Job job;
    return Find(request->name(), &job);
  }

  grpc::Status Find(const std::string& name, v1::Job* job) const {
    if (name != jobs.job.name()) return NoSuchJob();
    *job = jobs.job;
    return grpc::Status::OK;
  }

  FakeJobs jobs;
  v1::JobSpec spec;
  int64_t prompts = 0;
  v1::ListJobsRequest list_request;
  v1::Job::State end_state = v1::Job::STATE_COMPLETED;
  std::vector<std::string> released;
  bool is_silent = false;  // After the first image.
  absl::Notification test_ends;
};

}  // namespace turbofleet::client
