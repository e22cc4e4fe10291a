// The shell around the deciding core: the one lock, the clock, the store, and everybody who waits for a decision.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/log.h"
#include "coordinator/dispatch/durable_jobs.h"
#include "coordinator/dispatch/input_store.h"
#include "coordinator/dispatch/messages.h"
#include "coordinator/dispatch/observer.h"
#include "coordinator/dispatch/outbox.h"
#include "coordinator/dispatch/rate_meter.h"
#include "coordinator/dispatch/sinks.h"
#include "coordinator/dispatch/store_queue.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/store/job_spec.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

// A worker as it is now.
struct WorkerState {
  WorkerIdentity identity;
  absl::Time connect_time;
  SessionLoad load;
  int64_t images_completed = 0;
  int64_t images_failed = 0;  // For good, or to be tried again.
  double images_per_second = 0.0;
};

// The cluster as it is now.
struct ClusterState {
  absl::Time start_time;
  bool draining = false;
  SchedulerLoad load;
  int64_t calls_open = 0;         // Until their client has taken its last images.
  int64_t calls_running = 0;      // Those of them with images that have not ended.
  int64_t jobs_running = 0;       // Durable ones.
  int64_t images_waiting = 0;     // For a worker, of calls and of durable jobs, claimed or not.
  int64_t bytes_retained = 0;     // Pictures of durable jobs, in the spool.
  int64_t bytes_uncommitted = 0;  // Pictures on their way there.
  int64_t images_completed = 0;
  int64_t images_failed = 0;
  int64_t images_queued_max = 0;
  std::vector<WorkerState> workers;  // By name.
};

// Carries decisions out: keeps jobs and sessions, feeds batches to workers and images to clients, and sees to it that a
// client that is slow to read slows its own job only.
//
// Thread-safe. No call blocks for longer than a decision takes; sinks are flushed outside of the lock.
class Dispatcher {
 public:
  struct Options {
    Scheduler::Options scheduler{};
    DurableJobs::Options durable{};
    int32_t images_per_job_max = 10'000;
    int64_t input_bytes_max = int64_t{256} << 20;  // Start pictures of all jobs.
    // A job whose client is behind by this much gets no further leases until half of it is sent. What workers have by
    // then comes on top.
    int64_t images_unsent_max = 256;
    int64_t bytes_unsent_max = int64_t{64} << 20;
    // The same for all clients together: beyond it, only jobs whose clients are not behind at all go on.
    int64_t bytes_unsent_total_max = int64_t{1} << 30;
    absl::Duration client_stall_timeout = absl::Minutes(5);  // A client that reads nothing for so long loses its call.
    absl::Duration report_interval = absl::Seconds(1);
    absl::Duration retry_after = absl::Seconds(1);  // What refused clients are told.
  };
  // Injected, not owned; they outlive the dispatcher.
  struct Environment {
    const Clock* clock = nullptr;
    DispatchObserver* observer = nullptr;
    Logger* logger = nullptr;
    std::function<std::string()> new_name;  // Unique and not to be guessed.
    std::function<uint32_t()> new_seed;     // Uniform.
    // For durable jobs; without a store there are none.
    StoreQueue* store = nullptr;
    Spool* spool = nullptr;
    bool store_shared = false;  // JobStore::shared().
    // The store says that another coordinator has taken over: leave. Called with the dispatcher's lock held.
    std::function<void()> on_fenced{};
  };

  Dispatcher(const Options& options, Environment environment);
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // ---- Clients

  // Admits a job and feeds `watch` until PostEnd(). Refusals, with their reasons:
  // INVALID_ARGUMENT INVALID_FIELD (too many images), MODEL_AMBIGUOUS; FAILED_PRECONDITION MODEL_NOT_SERVED,
  // SIZE_NOT_SERVED, VAE_NOT_SERVED; RESOURCE_EXHAUSTED QUEUE_FULL; UNAVAILABLE NO_WORKERS, SHUTTING_DOWN.
  absl::StatusOr<JobId> StartJob(JobRequest request, std::shared_ptr<JobWatch> watch);

  // The client has been sent an image or a failure of so many bytes.
  void ImageSent(JobId job, int64_t bytes);

  // The call is over, whoever ended it: cancels what is left and forgets the job. Nothing if it is forgotten.
  void CloseJob(JobId job);

  // ---- Durable jobs: what JobDesk needs. REQUIRES: there is a store.

  // A description for a durable job; its prompts are not looked at. Refusals as above, but for those of the queue.
  absl::StatusOr<std::shared_ptr<JobSpec>> ResolveJob(JobRequest request) const;
  // RESOURCE_EXHAUSTED: the tenant may not run another job of so many images now.
  absl::Status CheckQuota(const std::string& tenant, int64_t images) const;
  // What the store has, before anything else happens.
  void LoadJobs(const std::vector<JobRecord>& running, const std::map<std::string, TenantUsage>& usage);
  // What has become durable.
  void JobStarted(const JobRecord& record);
  void JobEnded(const JobRecord& record);
  void JobReleased(const JobRecord& record, int64_t bytes);
  void JobDeleted(const JobRecord& record);
  bool WaitsForRelease(const std::string& id) const;
  // Tells the follower of every change of the job, until Unfollow() or its PostEnd().
  void Follow(const std::string& id, const std::shared_ptr<JobFollower>& follower);
  void Unfollow(const std::string& id, const std::shared_ptr<JobFollower>& follower);

  // ---- Workers

  // Opens a session and posts its welcome; a session that the same worker had ends with ALREADY_EXISTS.
  // UNAVAILABLE SHUTTING_DOWN.
  // Of the images in `held`, those that nobody else has come to the session in a batch that is adopted.
  absl::StatusOr<SessionId> OpenSession(const WorkerIdentity& identity, std::shared_ptr<WorkerSession> session,
                                        const std::vector<HeldImage>& held = {});

  // INVALID_ARGUMENT MALFORMED_MESSAGE: the report contradicts itself. UNAVAILABLE SESSION_ENDED.
  absl::Status Report(SessionId session, const WorkerReport& report);

  // Takes a picture, or why there is none. False if it is not wanted (any more): the lease, or the session, has ended.
  bool Deliver(const std::string& token, LeaseId lease, int32_t slot, RenderOutcome outcome);

  // Ends a session and gives its images to others; `status` is posted to it. Nothing if it has ended.
  void EndSession(SessionId session, const absl::Status& status);
  void EndSession(const std::string& token, const absl::Status& status);

  // A start picture of a running job. NOT_FOUND INPUT_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<const std::string>> FindInput(const std::string& sha256) const;

  // ---- Life

  // Does what is due by time. Call it several times a second.
  void Tick();

  ClusterState State() const;

  // Refuses new jobs from now on; those that run go on.
  void BeginDrain();
  bool Draining() const;
  // Waits until no call is open and all that was made of durable jobs is in the store; false after `timeout`, in real
  // time.
  bool AwaitIdle(absl::Duration timeout) const;
  // Ends everything that is still open with UNAVAILABLE SHUTTING_DOWN and lets nothing in.
  void Shutdown();

 private:
  struct Job {
    std::shared_ptr<const JobSpec> spec;
    std::shared_ptr<JobWatch> watch;
    absl::Time started;
    std::vector<bool> ended;  // By index.
    int32_t images_left = 0;  // That have not ended.
    int32_t images_failed = 0;
    int64_t images_unsent = 0;
    int64_t bytes_unsent = 0;
    absl::Time last_sent;  // Or when it last had nothing to send.
    bool paused = false;
  };
  struct Session {
    WorkerIdentity identity;
    std::string token;
    std::shared_ptr<WorkerSession> sink;
    absl::Time connect_time;
    int64_t images_completed = 0;
    int64_t images_failed = 0;
    RateMeter rate;
    bool draining = false;
  };

  absl::StatusOr<const WorkerIdentity*> ResolveModel(const std::string& model) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckServed(const JobSpec& spec) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::shared_ptr<JobSpec>> Resolve(JobRequest* request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Admit(JobId id, const std::shared_ptr<const JobSpec>& spec, std::string init_image, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status QueueFull(const std::string& limit, const std::string& description) const;

  // Runs a call with the lock, and then carries out what follows from it for durable jobs.
  void Enter(absl::FunctionRef<void(Outbox& outbox)> call);
  DurableJobs::Environment DurableEnvironment();
  bool IsDurable(JobId id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return durable_ != nullptr && durable_->Owns(id);
  }

  std::shared_ptr<const JobSpec> SpecOf(JobId id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  ImageToRender ToRender(ImageId image) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Ends an image. False if it had ended before, or its job has.
  bool EndsNow(ImageId image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishImage(ImageId image, SessionId session, Delivery delivery, Picture picture, Outbox& outbox)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailImage(ImageId image, int32_t attempts, RenderError error, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // One image of the job has ended, with so many bytes for the client.
  void CountEnded(JobId id, Job& job, int64_t bytes, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UpdatePause(JobId id, Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BreakStalledClients(absl::Time now, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void Adopt(SessionId id, const std::vector<HeldImage>& held, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PostBatch(const Lease& lease, bool adopted, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndSessionLocked(SessionId id, const absl::Status& status, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes a session, which the core has ended, off the lists.
  void CloseSession(SessionId id, const absl::Status& status, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Carry(const Effects& effects, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Assign(absl::Time now, Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Environment environment_;
  const absl::Time start_time_;

  mutable absl::Mutex mu_;
  Scheduler scheduler_ ABSL_GUARDED_BY(mu_);
  InputStore inputs_ ABSL_GUARDED_BY(mu_);
  uint64_t last_job_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t last_session_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<JobId, Job> jobs_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<DurableJobs> durable_ ABSL_GUARDED_BY(mu_);  // Null without a store.
  std::map<SessionId, Session> sessions_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, SessionId> sessions_by_token_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, SessionId> sessions_by_worker_ ABSL_GUARDED_BY(mu_);
  int64_t call_images_left_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t bytes_unsent_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t images_completed_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t images_failed_ ABSL_GUARDED_BY(mu_) = 0;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool shut_down_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace turbofleet
