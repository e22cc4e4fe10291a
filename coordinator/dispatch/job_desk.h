// What clients do with durable jobs, one call each.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/messages.h"
#include "coordinator/dispatch/result_reader.h"
#include "coordinator/dispatch/store_queue.h"

namespace turbofleet {

// A durable job that a client wants. What only the cluster knows is still open.
struct JobOrder {
  std::string tenant;
  std::string request_id;
  std::map<std::string, std::string> labels;
  absl::Duration timeout = absl::InfiniteDuration();
  std::optional<absl::Duration> retention;
  JobRequest images;  // With the prompts of the first message.
};

// A durable job for its client.
struct JobView {
  JobRecord record;
  bool waits_for_release = false;
};

// Where a client is in a job's results; see ResultReader::Request.
struct WatchPosition {
  bool ordered = false;
  int64_t position = 0;
};

// What the store says, with the reasons that clients know. What has a reason already stays as it is.
absl::Status ExplainStore(const absl::Status& status);

// Checks, and brings into the store and to the dispatcher. Callbacks come once, from another thread. A job of another
// tenant is NOT_FOUND JOB_NOT_FOUND like one that is not there.
//
// Thread-safe. What it is given outlives it, and all calls that it has not answered.
class JobDesk {
 public:
  struct Options {
    int32_t images_per_job_max = 100'000'000;
    absl::Duration retention = absl::Hours(24);  // Of a job that asks for none.
  };
  using JobCallback = std::function<void(absl::StatusOr<JobView> job)>;
  using JobsCallback = std::function<void(absl::StatusOr<std::vector<JobView>> jobs)>;
  using StatusCallback = std::function<void(const absl::Status& status)>;

  // A job on its way in. For one call at a time.
  struct Draft {
    std::shared_ptr<JobSpec> spec;
    std::string id;
    int64_t prompts = 0;
  };

  JobDesk(const Options& options, Dispatcher* dispatcher, StoreQueue* store, Spool* spool, const Clock* clock,
          std::function<std::string()> new_id);

  // Starts a job that is nobody's to see until Submit(). Errors as Dispatcher::StartJob(), and those of quotas.
  void Begin(JobOrder order, std::function<void(absl::StatusOr<Draft> draft)> callback);
  // Adds prompts. INVALID_ARGUMENT INVALID_FIELD: there are too many images now.
  void Append(Draft* draft, std::vector<std::string> prompts, StatusCallback callback);
  // `fingerprint` stands for all that the client sent. ALREADY_EXISTS REQUEST_ID_REUSED. INVALID_ARGUMENT: no prompts.
  void Submit(const Draft& draft, const std::string& fingerprint, JobCallback callback);
  // Nothing if it was submitted.
  void Drop(const Draft& draft);

  void Get(const std::string& tenant, const std::string& id, JobCallback callback);
  // `query.tenant` is set.
  void List(const JobQuery& query, int32_t max, JobsCallback callback);
  void Cancel(const std::string& tenant, const std::string& id, JobCallback callback);
  // FAILED_PRECONDITION JOB_RUNNING.
  void Delete(const std::string& tenant, const std::string& id, StatusCallback callback);
  // Gives up what comes before the position.
  void Release(const std::string& tenant, const std::string& id, WatchPosition position, JobCallback callback);

 private:
  // Does something with a job of the tenant in the store's thread.
  using Change = std::function<absl::StatusOr<JobRecord>(JobStore& store, Spool& spool, const JobRecord& job)>;
  // `after` is called if that is durable, with the record before and after.
  using After = std::function<void(const JobRecord& before, const JobRecord& after)>;
  void With(const std::string& tenant, const std::string& id, Change change, After after, JobCallback callback);
  JobView View(const JobRecord& record) const;
  void DropLater(const std::string& id);

  const Options options_;
  Dispatcher* const dispatcher_;
  StoreQueue* const store_;
  Spool* const spool_;
  const Clock* const clock_;
  const std::function<std::string()> new_id_;
  absl::Mutex mu_;
  std::vector<std::string> not_dropped_ ABSL_GUARDED_BY(mu_);  // Drafts that nobody wants, for when the store is back.
};

}  // namespace turbofleet
