// The calls of turbofleet.v1.ImageService about durable jobs.
#pragma once

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/dispatch/result_reader.h"
#include "coordinator/service/rpc_observer.h"
#include "coordinator/service/tenants.h"
#include "grpcpp/support/server_callback.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet {

// What the calls need; all of it outlives them.
struct JobCallParts {
  Dispatcher* dispatcher = nullptr;
  JobDesk* desk = nullptr;
  const ResultReader* reader = nullptr;
  RpcObserver* observer = nullptr;
  const Tenants* tenants = nullptr;
};

// Each starts one call and returns what gRPC wants for it.
grpc::ServerReadReactor<v1::CreateJobRequest>* StartCreateJob(const JobCallParts& parts,
                                                              grpc::CallbackServerContext* context, v1::Job* response);
grpc::ServerWriteReactor<v1::WatchJobResponse>* StartWatchJob(const JobCallParts& parts,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::WatchJobRequest* request);
grpc::ServerUnaryReactor* StartGetJob(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                      const v1::GetJobRequest* request, v1::Job* response);
grpc::ServerUnaryReactor* StartListJobs(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                        const v1::ListJobsRequest* request, v1::ListJobsResponse* response);
grpc::ServerUnaryReactor* StartReleaseImages(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                             const v1::ReleaseImagesRequest* request, v1::Job* response);
grpc::ServerUnaryReactor* StartCancelJob(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                         const v1::CancelJobRequest* request, v1::Job* response);
grpc::ServerUnaryReactor* StartDeleteJob(const JobCallParts& parts, grpc::CallbackServerContext* context,
                                         const v1::DeleteJobRequest* request, google::protobuf::Empty* response);

}  // namespace turbofleet
