// turbofleet.v1.ClusterService over a Dispatcher.
#pragma once

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/service/rpc_observer.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"

namespace turbofleet {

// Thread-safe. What it is given outlives it.
class ClusterServiceImpl : public v1::ClusterService::CallbackService {
 public:
  ClusterServiceImpl(const Dispatcher* dispatcher, RpcObserver* observer)
      : dispatcher_(dispatcher), observer_(observer) {}

  grpc::ServerUnaryReactor* GetCluster(grpc::CallbackServerContext* context, const v1::GetClusterRequest* request,
                                       v1::Cluster* response) override;
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context, const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;

 private:
  Dispatcher const* const dispatcher_;
  RpcObserver* const observer_;
};

}  // namespace turbofleet
