// What makes calls dependable: deadlines, back-off, and resuming streams that break.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/lib/jobs_stub.h"
#include "client/lib/stub.h"
#include "common/clock.h"
#include "common/random.h"
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
    // As `stub` for jobs.
    std::unique_ptr<JobsStub> jobs = nullptr;
    // A name that nobody else draws.
    std::function<std::string()> draw_id = RandomHex128;
  };

  Connection(Dependencies dependencies, const RetryPolicy& policy);

  // As in Client.
  absl::Status GenerateImages(const GenerateRequest& request, const GenerateOptions& options,
                              const std::function<void(GenerateEvent event)>& on_event);
  absl::StatusOr<ClusterState> GetCluster(const LookOptions& options);
  absl::StatusOr<std::vector<WorkerState>> ListWorkers(const LookOptions& options);
  absl::StatusOr<Job> CreateJob(const JobRequest& request, const JobOptions& options);
  absl::StatusOr<Job> GetJob(const std::string& name, const JobOptions& options);
  absl::StatusOr<JobPage> ListJobsPage(const JobFilter& filter, int32_t page_size, const std::string& page_token,
                                       const JobOptions& options);
  absl::StatusOr<std::vector<Job>> ListJobs(const JobFilter& filter, const JobOptions& options);
  absl::Status WatchJob(const WatchRequest& request, const WatchOptions& options,
                        const std::function<void(WatchEvent event)>& on_event);
  absl::StatusOr<Job> ReleaseImages(const std::string& name, const std::string& resume_token,
                                    const JobOptions& options);
  absl::StatusOr<Job> CancelJob(const std::string& name, const JobOptions& options);
  absl::Status DeleteJob(const std::string& name, const JobOptions& options);

 private:
  const Dependencies dependencies_;
  const RetryPolicy policy_;
};

// Over `channel`, with the machine's clock.
std::unique_ptr<Connection> MakeConnection(const std::shared_ptr<grpc::Channel>& channel, const RetryPolicy& policy);

}  // namespace turbofleet::client
