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
// An image that was queued and has not ended is queued, or held by one lease, or by two of different sessions: a hedge.
// It may be rendered more than once, but it ends exactly once: by the first delivery that is not late, by a
// FailedImage, or by Cancel() and DropImages().
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
    // So is the work of one whose device stands still for this long, and for 10 times as long as its batch should take.
    absl::Duration stuck_timeout = absl::Seconds(10);
    // The same for a worker whose pace nobody knows yet; it may be compiling or reading weights.
    absl::Duration first_stuck_timeout = absl::Minutes(2);
    int32_t attempts_max = 3;         // Tries per image before it fails. 1 or more.
    int32_t crashes_max = 3;          // Workers that may die of an image before it fails.
    int32_t device_failures_max = 3;  // Batches in a row on which a device may fail before its worker gets no more.
    absl::Duration quarantine_timeout = absl::Minutes(1);  // For how long that is.
    int64_t batches_held_max = 4;                          // Batches one worker may have, whatever credit it gives.
    // Submit() refuses what would make more wait. Open-ended jobs do not count: their caller adds what it needs.
    int64_t images_queued_max = 100'000;
    int64_t jobs_max = 1'000;
    int64_t prompt_bytes_max = int64_t{256} << 20;
    std::array<int32_t, kJobClasses> class_weights = {16, 4, 1};
    double bulk_share_min = 0.05;  // Of the device time while there is bulk work, whatever the weights say.
    // While there was interactive work within the first, other batches are predicted to take no longer than the second,
    // unless a single image does.
    absl::Duration interactive_memory = absl::Seconds(1);
    absl::Duration short_batch_time = absl::Milliseconds(50);
    int64_t late_leases_max = 1'000;  // Leases that were taken back and may still be delivered.
    absl::Duration hedge_after_min = absl::Seconds(1);
    absl::Duration hedge_window = absl::Minutes(1);
    double hedge_share_max = 0.02;  // Of the device time within the window that hedges may take.
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
  // are queued come to it; those that were given to others or have ended do not. A crash that they were charged with
  // when that worker was lost did not happen. The lease counts as a batch that is held, but not against the worker's
  // credit. Nothing for a session that is not there.
  Adoption Adopt(SessionId session, absl::Span<const ImageId> images, absl::Time now);

  // The session's images go back to the queue. Those of the leases that were started are charged with a try and with a
  // crash, because they may be the cause; if the worker told of none, those of its oldest lease. Those that waited
  // behind did not get their try. Nothing for a session that is not there.
  //
  // Images that crashed travel among themselves, after the first crash in halves of their batch, then alone, to other
  // workers if there are any; after crashes_max they fail as poison.
  Effects EndSession(SessionId session, absl::Time now);

  // INVALID_ARGUMENT: the report contradicts itself or what was sent. NOT_FOUND: no such session.
  // Leases that the worker has had and does not list go back to the queue, free of charge if it is draining.
  absl::Status Report(SessionId session, const WorkerReport& report, absl::Time now, Effects* effects);

  // Ends one image of a lease, which took `device_time` of the worker's device, or zero if that is not known. Of an
  // image that is delivered twice, or by two workers, only one delivery is not late. A picture from a lease that was
  // taken back from a stuck worker is not late as long as the image has not ended.
  Delivery Deliver(SessionId session, LeaseId lease, int32_t slot, Outcome outcome, absl::Duration device_time,
                   absl::Time now);

  // Ends the sessions that have been silent for too long, takes the work of those that are stuck, lets out those whose
  // quarantine is over, and stops the jobs whose deadline has passed.
  Effects Expire(absl::Time now);

  // When Expire() next has work. InfiniteFuture() if there is nothing that could expire.
  absl::Time NextExpiry() const;

  // ---- Decisions

  // Leases what can be leased to workers that have credit, least loaded first. A batch has images of one model and
  // shape: of one tenant first, then of its class, then of others. It is cut so that what waits spreads over all
  // workers that can render it by their speed, and ends on all of them at about the same time. An image on its last
  // attempt travels alone, so that it takes no neighbour down with it. A worker stays with its shape as long as the
  // tenant whose turn it is has a job of that shape which is at most one batch less urgent.
  //
  // A worker that has nothing to do hedges: it is leased images that another one has been holding for three times as
  // long as they should take, if these are interactive or nothing of their shape is queued.
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
  struct LateLease {
    SessionId session{};
    absl::Time leased_at;
    std::vector<Slot> slots;
  };
  // A batch that is being cut.
  struct Batch {
    const Session* session = nullptr;
    Lane* lane = nullptr;
    size_t images_max = 0;
    std::vector<Slot> slots;
    int64_t cost = 0;  // Of one image.

    bool suspects = false;  // Its images crashed.

    bool Full() const { return slots.size() >= images_max; }
  };

  // scheduler.cc: jobs and their queues.
  std::optional<Refusal> Refuse(const JobPlacement& placement, absl::Time now) const;
  // From now until the last of a new job's images. Nothing if too little is known.
  std::optional<absl::Duration> PredictEnd(const JobPlacement& placement) const;
  void NoteInteractive(const Job& job, absl::Time now);
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
  enum class Charge { kNothing, kTry, kCrash };
  // Writes down how the try of a slot ended that was closed.
  books::TriedImage& NoteTry(const Slot& slot, Charge charge, size_t batch, const std::string& worker);
  // Puts an image that was tried back into the queue, unless another lease holds it.
  void RequeueImage(const Slot& slot, bool charged);
  // Takes back what is open of a lease; images without tries left end.
  void ReturnLease(LeaseMap::iterator lease, RetryReason reason, Charge charge, Effects* effects);
  // `charge` is for those leases that were on the device.
  void ReturnAllLeases(Session& session, RetryReason reason, Charge charge, Effects* effects);
  void RememberLate(const HeldLease& lease);
  Delivery DeliverLate(Session& session, LeaseId lease, int32_t slot, Outcome outcome, absl::Duration device_time,
                       absl::Time now);
  // Takes an image that has ended away from the queue and from whoever else holds it.
  void TakeAway(Job& job, int32_t index, Effects* effects);
  void CountDeviceFailure(Session& session, LeaseId lease, absl::Time now, Effects* effects);

  // assignment.cc
  struct Choice;
  bool Avoids(const books::TriedImage& image, const Session& session, const Lane& lane) const;
  // The first job with a returned image that the session may have. Null: none, or too far back to be looked for.
  const Job* FirstReturned(const books::TenantQueue& queue, const Session& session, const Lane& lane) const;
  // How many images of a lane a session should be given now. 0: others will be done with them sooner.
  size_t BatchSize(const Session& session, const Lane& lane, bool returned) const;
  std::optional<Choice> FirstIn(Lane& lane, JobClass job_class, const Session& session) const;
  // Whether a choice is at most one batch less urgent than the best one.
  bool IsLevel(const Choice& choice, const Choice& best, const Session& session) const;
  std::optional<Choice> Choose(const Session& session) const;
  // Put a tenant's images into a batch. True: nothing may be added to it.
  bool TakeReturned(const books::TenantQueue& queue, Batch* batch);
  void TakeFresh(books::TenantQueue& queue, Batch* batch);
  std::vector<Slot> CutBatch(const Session& session, const Choice& choice, absl::Time now);
  std::optional<Lease> AssignTo(Session& session, absl::Time now);
  void AssignPool(Pool& pool, absl::Time now, std::vector<Lease>* leases);

  // hedging.cc
  bool MayHedge(Pool& pool, int64_t cost, absl::Time now) const;
  Session* FindIdle(const Lane& lane, const Session& other) const;
  // What a session has to do, by what is known now.
  int64_t BusyNow(const Session& session) const;
  std::optional<Lease> HedgeLease(HeldLease& late, absl::Time now);
  void Hedge(absl::Time now, std::vector<Lease>* leases);

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
  std::map<LeaseId, LateLease> late_;                // Taken back from stuck workers.
  std::set<std::pair<absl::Time, LeaseId>> hedges_;  // By when they may be hedged.
  std::set<std::pair<absl::Time, SessionId>> expiries_;
  std::set<std::pair<absl::Time, JobId>> deadlines_;
  std::vector<JobId> expired_jobs_;  // That Expire() has not told of yet.
};

}  // namespace turbofleet
