#include "client/lib/connection.h"

#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>

#include "client/lib/convert.h"
#include "client/lib/generate_call.h"
#include "common/errors.h"
#include "common/random.h"
#include "common/status.h"

namespace turbofleet::client {
namespace {

// Pages of 1,000 workers: more than any cluster has, and an end to a server that never ends.
constexpr int kWorkerPagesMax = 1000;
constexpr int kWorkersPerPage = 1000;

void SleepUnlessStopped(absl::Duration duration, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, absl::ToChronoNanoseconds(duration), [] { return false; });
}

}  // namespace

Connection::Connection(Dependencies dependencies, const RetryPolicy& policy)
    : dependencies_(std::move(dependencies)), policy_(policy) {}

absl::Status Connection::GenerateImages(const GenerateRequest& request, const GenerateOptions& options,
                                        const std::function<void(GenerateEvent event)>& on_event) {
  TURBOFLEET_RETURN_IF_ERROR(Validate(request));
  return GenerateCall(dependencies_, policy_, request, options, on_event).Run();
}

absl::StatusOr<ClusterState> Connection::GetCluster(const LookOptions& options) {
  TURBOFLEET_ASSIGN_OR_RETURN(const v1::Cluster cluster,
                              dependencies_.stub->GetCluster({.timeout = options.timeout, .stop = options.stop}));
  return FromProto(cluster);
}

absl::StatusOr<std::vector<WorkerState>> Connection::ListWorkers(const LookOptions& options) {
  const absl::Time deadline = dependencies_.clock->Now() + options.timeout;
  std::vector<WorkerState> workers;
  v1::ListWorkersRequest request;
  request.set_page_size(kWorkersPerPage);
  for (int page = 0; page < kWorkerPagesMax; ++page) {
    const absl::Duration left = deadline - dependencies_.clock->Now();
    TURBOFLEET_ASSIGN_OR_RETURN(const v1::ListWorkersResponse response,
                                dependencies_.stub->ListWorkers(request, {.timeout = left, .stop = options.stop}));
    for (const v1::Worker& worker : response.workers()) workers.push_back(FromProto(worker));
    if (response.next_page_token().empty()) return workers;
    request.set_page_token(response.next_page_token());
  }
  return MakeError(absl::StatusCode::kInternal, kReasonProtocolViolation, "the list of workers does not end");
}

std::unique_ptr<Connection> MakeConnection(const std::shared_ptr<grpc::Channel>& channel, const RetryPolicy& policy) {
  return std::make_unique<Connection>(Connection::Dependencies{.stub = MakeGrpcStub(channel),
                                                               .clock = std::make_shared<SteadyClock>(),
                                                               .sleep = SleepUnlessStopped,
                                                               .random = [] { return RandomUint32() / 4294967296.0; },
                                                               .jobs = MakeGrpcJobsStub(channel)},
                                      policy);
}

}  // namespace turbofleet::client
