// What makes calls dependable: deadlines, back-off, and resuming streams that break.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/lib/stub.h"
#include "common/clock.h"
#include "turbofleet/client.h"

namespace turbofleet::client {

// Thread-safe if what it is built from is.
class Connection {
 public:
  struct Dependencies {
    std::unique_ptr<Stub> stub;
    std::shared_ptr<const Clock> clock;
    // Returns early when `stop` is requested.
    std::function<void(absl::Duration duration, std::stop_token stop)> sleep;
    // A fraction from 0 to below 1, to spread the tries of many clients.
    std::function<double()> random;
  };

  Connection(Dependencies dependencies, const RetryPolicy& policy);

  // As in Client.
  absl::Status GenerateImages(const GenerateRequest& request, const GenerateOptions& options,
                              const std::function<void(GenerateEvent event)>& on_event);
  absl::StatusOr<ClusterState> GetCluster(const LookOptions& options);
  absl::StatusOr<std::vector<WorkerState>> ListWorkers(const LookOptions& options);

 private:
  const Dependencies dependencies_;
  const RetryPolicy policy_;
};

// Over `stub`, with the machine's clock.
std::unique_ptr<Connection> MakeConnection(std::unique_ptr<Stub> stub, const RetryPolicy& policy);

}  // namespace turbofleet::client
