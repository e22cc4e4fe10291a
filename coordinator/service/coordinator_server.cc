#include "coordinator/service/coordinator_server.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/errors.h"
#include "coordinator/service/cluster_service.h"
#include "coordinator/service/image_service.h"
#include "coordinator/service/worker_service.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace turbofleet {
namespace {

class CoordinatorServerImpl : public CoordinatorServer {
 public:
  CoordinatorServerImpl(const std::string& tenant_metadata, const Parts& parts)
      : tenants_(tenant_metadata),
        images_({.dispatcher = parts.dispatcher,
                 .desk = parts.desk,
                 .reader = parts.reader,
                 .observer = parts.observer,
                 .tenants = &tenants_}),
        cluster_(parts.dispatcher, parts.observer),
        workers_(parts.dispatcher, parts.observer) {}

  ~CoordinatorServerImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen(const Options& options) {
    // Both are switches of the process; to throw them twice is harmless.
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    ApplyServerLimits(options.limits, &builder);
    builder.AddListeningPort(options.listen, options.credentials, &port_);
    builder.RegisterService(&images_);
    builder.RegisterService(&cluster_);
    builder.RegisterService(&workers_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ <= 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen at ", options.listen, "; is the port taken?"));
    }
    SetServing(true);
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  void SetNotServing() override { SetServing(false); }

  void Shutdown(absl::Duration grace) override {
    absl::MutexLock lock(&mu_);
    if (server_ == nullptr || shut_down_) return;
    shut_down_ = true;
    workers_.EndDeliveries(
        MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "the coordinator is shutting down"));
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_->Wait();
  }

 private:
  void SetServing(bool serving) {
    grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
    for (const char* service : {v1::ImageService::service_full_name(), v1::ClusterService::service_full_name(),
                                internal::worker::v1::WorkerService::service_full_name()}) {
      health->SetServingStatus(service, serving);
    }
    health->SetServingStatus(serving);
  }

  const Tenants tenants_;
  ImageServiceImpl images_;
  ClusterServiceImpl cluster_;
  WorkerServiceImpl workers_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  absl::Mutex mu_;
  bool shut_down_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(const Options& options,
                                                                            const Parts& parts) {
  auto server = std::make_unique<CoordinatorServerImpl>(options.tenant_metadata, parts);
  if (const absl::Status status = server->Listen(options); !status.ok()) return status;
  return server;
}

}  // namespace turbofleet
