#include "coordinator/service/cluster_service.h"

#include <string>
#include <string_view>

#include "common/errors.h"
#include "common/status.h"
#include "coordinator/service/translate.h"
#include "coordinator/service/validate.h"

namespace turbofleet {
namespace {

// A token is this and the name of the last worker of the page before: workers that come and go between two pages
// neither repeat others nor hide them.
constexpr std::string_view kTokenPrefix = "after:";

constexpr RpcObserver::Method kGetCluster = {
    .type = "unary", .service = "turbofleet.v1.ClusterService", .method = "GetCluster"};
constexpr RpcObserver::Method kListWorkers = {
    .type = "unary", .service = "turbofleet.v1.ClusterService", .method = "ListWorkers"};

absl::Status ListPage(const ClusterState& state, const v1::ListWorkersRequest& request,
                      v1::ListWorkersResponse* response) {
  TURBOFLEET_ASSIGN_OR_RETURN(const int32_t page_size, ParsePageSize(request.page_size()));
  std::string_view token = request.page_token();
  if (!token.empty() && !token.starts_with(kTokenPrefix)) {
    return InvalidField("page_token", "was not given out by this method");
  }
  if (!token.empty()) token.remove_prefix(kTokenPrefix.size());
  for (const WorkerState& worker : state.workers) {
    if (!request.page_token().empty() && worker.identity.name <= token) continue;
    if (response->workers_size() == page_size) {
      const std::string& last = response->workers(page_size - 1).name();
      response->set_next_page_token(std::string(kTokenPrefix) + last.substr(std::string_view("workers/").size()));
      break;
    }
    *response->add_workers() = WorkerProto(worker);
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* ClusterServiceImpl::GetCluster(grpc::CallbackServerContext* context,
                                                         const v1::GetClusterRequest* /*request*/,
                                                         v1::Cluster* response) {
  ObservedCall call(observer_, kGetCluster);
  *response = ClusterProto(dispatcher_->State());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  call.Handled(grpc::StatusCode::OK);
  return reactor;
}

grpc::ServerUnaryReactor* ClusterServiceImpl::ListWorkers(grpc::CallbackServerContext* context,
                                                          const v1::ListWorkersRequest* request,
                                                          v1::ListWorkersResponse* response) {
  ObservedCall call(observer_, kListWorkers);
  const absl::Status status = ListPage(dispatcher_->State(), *request, response);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  call.Handled(static_cast<grpc::StatusCode>(status.code()));
  return reactor;
}

}  // namespace turbofleet
