// The deciding core.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/scheduler/books.h"
#include "coordinator/scheduler/types.h"

namespace turbofleet {

// Decides which worker renders which images next.
//
// A deterministic state machine: no threads, locks, clock or network. Callers pass the time in and carry the decisions
// out, so a test plays an hour of worker failures in a moment. `now` must not go backwards.
//
// An image that was queued and has not ended is queued, or held by exactly one lease. It may be rendered more than
// once, but it ends exactly once: by the first delivery that is not late, by a FailedImage, or by Cancel() and
// DropImages().
//
// Fair by start-time fair queueing in three levels, each by predicted device time that is corrected when an image ends:
// classes by weight, in a class tenants by weight, in a tenant jobs alike; in a job images go in the order of their
// index. Whoever starts, or comes back from a pause, starts level with the others, so that it neither catches up on the
// past nor waits for it. Models do not compete, because their workers are not the same.
//
// Memory is in proportion to jobs, to images that are leased or came back, and to gaps in what is queued; not to
// images. An event costs logarithms of these, and a lease one look at each shape that is queued for the worker's model.
//
// Thread-compatible: Dispatcher holds the one lock around it.
class Scheduler {
 public:
  struct Options {
    absl::Duration session_timeout = absl::Seconds(10);  // A worker that is silent for this long is lost.
    absl::Duration stuck_timeout = absl::Minutes(5);     // So is the work of one whose device stands still.
    int32_t attempts_max = 3;                            // Tries per image before it fails. 1 or more.
    int64_t batches_held_max = 4;                        // Batches one worker may have, whatever credit it gives.
    // Submit() refuses what would make more wait. Open-ended jobs do not count: their caller adds what it needs.
    int64_t images_queued_max = 100'000;
    int64_t jobs_max = 1'000;
    int64_t prompt_bytes_max = int64_t{256} << 20;
    std::array<int32_t, kJobClasses> class_weights = {16, 4, 1};
    double bulk_share_min = 0.05;  // Of the device time while there is bulk work, whatever the weights say.
  };

  explicit Scheduler(const Options& options);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // ---- Jobs

  // Admits a job. One with an image_count has all of its images queued, within the limits or not at all, and is
  // forgotten with its last one. An open-ended one is never refused, has no images yet and stays until Cancel().
  // REQUIRES: a new id, higher than all before; image_count >= 0; 0 <= first_step < steps; tenant_weight in range.
  std::optional<Refusal> Submit(const JobPlacement& job, absl::Time now);

  // Queues the images [first, first + count) of an open-ended job, but for the indexes in `skip`, which is sorted.
  // Nothing for a job that is not there.
  // REQUIRES: first >= 0, count > 0, first + count < 2^31; none of the others is queued or leased.
  void AddImages(JobId job, int32_t first, int32_t count, absl::Span<const int32_t> skip, absl::Time now);

  // Takes the images [first, first + count) of an open-ended job out again: what is queued is forgotten, what is leased
  // is to be abandoned. Nothing for a job that is not there.
  Effects DropImages(JobId job, int32_t first, int32_t count);

  // Ends a job: what is queued is forgotten, what is leased is to be abandoned. Nothing for a job that is not there.
  Effects Cancel(JobId job);

  // A job that is paused gets no further leases; those it has go on.
  void SetPaused(JobId job, bool paused);

  // How many images of the job wait, and how many are with workers. 0 for a job that is not there.
  int64_t Queued(JobId job) const;
  int64_t Leased(JobId job) const;

  // ---- Sessions

  // REQUIRES: a new id.
  void OpenSession(SessionId session, const WorkerCapacity& capacity, absl::Time now);

  // Gives a session a lease of images that its worker held before it had the session, running or rendered. Those that
  // are queued come to it; those that were given to others or have ended do not. The lease counts as a batch that is
  // held, but not against the worker's credit. Nothing for a session that is not there.
  Adoption Adopt(SessionId session, absl::Span<const ImageId> images, absl::Time now);

  // The session's images go back to the queue. One attempt is charged to the images of its oldest lease, which was on
  // the device when the worker died and may be the cause; those of the leases that waited behind it did not get their
  // try. Nothing for a session that is not there.
  Effects EndSession(SessionId session, absl::Time now);

  // INVALID_ARGUMENT: the report contradicts itself or what was sent. NOT_FOUND: no such session.
  // Leases that the worker has had and does not list go back to the queue, free of charge if it is draining.
  absl::Status Report(SessionId session, const WorkerReport& report, absl::Time now, Effects* effects);

  // Ends one image of a lease, which took `device_time` of the worker's device, or zero if that is not known. Of an
  // image that is delivered twice, or by two workers, only one delivery is not late.
  Delivery Deliver(SessionId session, LeaseId lease, int32_t slot, Outcome outcome, absl::Duration device_time,
                   absl::Time now);

  // Ends the sessions that have been silent for too long, takes the work of those that are stuck, and stops the jobs
  // whose deadline has passed.
  Effects Expire(absl::Time now);

  // When Expire() next has work. InfiniteFuture() if there is nothing that could expire.
  absl::Time NextExpiry() const;

  // ---- Decisions

  // Leases what can be leased to workers that have credit, least loaded first. A batch has images of one model and
  // shape, of as many jobs as share it, and is cut so that what waits spreads over all workers that can render it. An
  // image on its last attempt travels alone, so that it takes no neighbour down with it.
  std::vector<Lease> Assign(absl::Time now);

  SchedulerLoad Load(absl::Time now) const;
  // Nothing if the session is not there.
  std::optional<SessionLoad> LoadOf(SessionId session) const;

 private:
  using Job = books::Job;
  using Tenant = books::Tenant;
  using Lane = books::Lane;
  using Pool = books::Pool;
  using Session = books::Session;
  using Slot = books::Slot;
  using HeldLease = books::HeldLease;
  using LeaseMap = std::map<LeaseId, HeldLease>;
  // A batch that is being cut.
  struct Batch {
    const Session* session = nullptr;
    Lane* lane = nullptr;
    size_t images_max = 0;
    std::vector<Slot> slots;
    int64_t cost = 0;  // Of one image.

    bool Full() const { return slots.size() >= images_max; }
  };

  // scheduler.cc: jobs and their queues.
  std::optional<Refusal> Refuse(const JobPlacement& placement) const;
  Pool& PoolOf(const std::string& model_digest);
  void ForgetPoolIfUnused(Pool& pool);
  Tenant& TenantOf(Pool& pool, const JobPlacement& placement);
  void ForgetTenantIfUnused(Job& job, Pool& pool);
  void ForgetJob(Job& job);
  // Brings every queue, count and index that has to do with the job's queued images up to date after a change.
  void Refile(Job& job);
  void Recount(Job& job, bool active);
  // Moves a tenant to another place in the queues in which it stands.
  void MoveTenant(Tenant& tenant, JobClass job_class, int64_t virtual_time);
  double WeightOf(const Pool& pool, JobClass job_class) const;
  // Charges the job's class and tenant for what it was given; whoever takes it charges the job itself.
  void ChargeShares(const Job& job, int64_t cost);
  // Corrects what a job, its tenant and its class were charged for an image.
  void Correct(Job& job, int64_t difference);
  Effects Abandon(Job& job, int32_t first, int32_t end);

  // sessions.cc
  // Brings ready sessions, speeds and expiries up to date after a change.
  void Reindex(Session& session);
  absl::Time StuckAt(const Session& session) const;
  void ForgetSession(Session& session);
  absl::Status CheckReport(const Session& session, const WorkerReport& report) const;
  void StopExpiredJobs(absl::Time now);

  // leases.cc
  Lease MakeLease(Session& session, std::vector<Slot> slots, absl::Time now);
  // Takes an open slot out of its lease, and the lease away with its last one.
  void CloseSlot(LeaseMap::iterator lease, int32_t slot);
  void EndImage(Job& job, int32_t index);
  // Puts the image of a slot that was closed back into the queue. `charged`: this try counts.
  void RequeueImage(Job& job, const Slot& slot, bool charged, const std::string& avoid);
  // Takes back what is open of a lease; images without attempts left end.
  void ReturnLease(LeaseMap::iterator lease, RetryReason reason, bool charged, Effects* effects);
  void ReturnAllLeases(Session& session, RetryReason reason, Effects* effects);

  // assignment.cc
  struct Choice;
  bool Avoids(const books::TriedImage& image, const Session& session, const Lane& lane) const;
  // The first job with a returned image that the session may have. Null: none, or too far back to be looked for.
  const Job* FirstReturned(const books::TenantQueue& queue, const Session& session, const Lane& lane) const;
  // How many images of a lane a session should be given now. 0: others will be done with them sooner.
  size_t BatchSize(const Session& session, const Lane& lane, bool returned) const;
  std::optional<Choice> Choose(const Session& session) const;
  // Put a tenant's images into a batch. True: nothing may be added to it.
  bool TakeReturned(const books::TenantQueue& queue, Batch* batch);
  void TakeFresh(books::TenantQueue& queue, Batch* batch);
  std::vector<Slot> CutBatch(const Session& session, const Choice& choice);
  std::optional<Lease> AssignTo(Session& session, absl::Time now);
  void AssignPool(Pool& pool, absl::Time now, std::vector<Lease>* leases);

  const Options options_;
  LeaseId last_lease_{};
  uint64_t last_tenant_ = 0;
  int64_t images_queued_ = 0;
  int64_t call_images_queued_ = 0;  // Of jobs that are not open-ended.
  int64_t images_leased_ = 0;
  int64_t call_jobs_ = 0;
  int64_t prompt_bytes_ = 0;
  int64_t call_prompt_bytes_ = 0;
  std::array<int64_t, kJobClasses> class_images_queued_{};
  // Jobs with queued images, by when the first of these was queued.
  std::array<std::set<std::pair<absl::Time, JobId>>, kJobClasses> ages_;
  // Ordered containers: the order of iteration is part of the deterministic behaviour. The books point at each other,
  // which maps allow, because their nodes stay where they are.
  std::map<std::string, Pool> pools_;  // By model.
  std::map<JobId, Job> jobs_;
  std::map<SessionId, Session> sessions_;
  LeaseMap leases_;
  std::set<std::pair<absl::Time, SessionId>> expiries_;
  std::set<std::pair<absl::Time, JobId>> deadlines_;
  std::vector<JobId> expired_jobs_;  // That Expire() has not told of yet.
};

}  // namespace turbofleet
