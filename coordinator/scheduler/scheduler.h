// The deciding core.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace turbofleet {

// Decides which worker renders which images next.
//
// A deterministic state machine: no threads, locks, clock or network. Callers pass the time in and carry the decisions
// out, so a test plays an hour of worker failures in a moment. `now` must not go backwards.
//
// An image of a job that is not finished is queued, or held by exactly one lease, or has ended. It may be rendered more
// than once, but it ends exactly once: by the first delivery that is not late, by a FailedImage, or by Cancel().
//
// Fair by start-time fair queueing: each image that a job is given costs it virtual time, in proportion to the steps
// and pixels that it takes, and the job that has had least is served first. A job that starts, or comes back from a
// pause, starts level with the others, so that it neither catches up on the past nor waits for it.
//
// Thread-compatible: Dispatcher holds the one lock around it.
class Scheduler {
 public:
  struct Options {
    absl::Duration session_timeout = absl::Seconds(10);  // A worker that is silent for this long is lost.
    absl::Duration stuck_timeout = absl::Minutes(5);     // So is the work of one whose device stands still.
    int32_t attempts_max = 3;                            // Tries per image before it fails. 1 or more.
    int64_t batches_held_max = 4;                        // Batches one worker may have, whatever credit it gives.
    int64_t images_queued_max = 100'000;                 // Submit() refuses what would make more wait.
    int64_t jobs_max = 1'000;
    int64_t prompt_bytes_max = int64_t{256} << 20;
  };

  explicit Scheduler(const Options& options);

  // Queues all of the job's images, or none of them and returns the limit that is in the way.
  // REQUIRES: a new id, higher than all before; 1 image or more; 0 <= first_step < steps.
  std::optional<LimitReached> Submit(const JobPlacement& job, absl::Time now);

  // Ends a job: what is queued is forgotten, what is leased is to be abandoned. Nothing for a job that is not there.
  Effects Cancel(JobId job);

  // A job that is paused gets no further leases; those it has go on.
  void SetPaused(JobId job, bool paused);

  // REQUIRES: a new id.
  void OpenSession(SessionId session, const WorkerCapacity& capacity, absl::Time now);

  // The session's images go back to the front of the queue. One attempt is charged to the images of its oldest lease,
  // which was on the device when the worker died and may be the cause; those of the leases that waited behind it did
  // not get their try. Nothing for a session that is not there.
  Effects EndSession(SessionId session, absl::Time now);

  // INVALID_ARGUMENT: the report contradicts itself or what was sent. NOT_FOUND: no such session.
  // Leases that the worker has had and does not list go back to the queue, free of charge if it is draining.
  absl::Status Report(SessionId session, const WorkerReport& report, absl::Time now, Effects* effects);

  // Ends one image of a lease. Of an image that is delivered twice, or by two workers, only one delivery is not late.
  Delivery Deliver(SessionId session, LeaseId lease, int32_t slot, Outcome outcome, absl::Time now);

  // Ends the sessions that have been silent for too long and takes the work of those that are stuck.
  Effects Expire(absl::Time now);

  // When Expire() next has work. InfiniteFuture() without sessions.
  absl::Time NextExpiry() const;

  // Leases what can be leased to workers that have credit, least loaded first. A batch has images of one model and
  // shape, of as many jobs as share it, and is cut so that what waits spreads over all workers that can render it. An
  // image on its last attempt travels alone, so that it takes no neighbour down with it.
  std::vector<Lease> Assign(absl::Time now);

  SchedulerLoad Load(absl::Time now) const;
  // Nothing if the session is not there.
  std::optional<SessionLoad> LoadOf(SessionId session) const;

 private:
  // Model and shape: images with the same key can share a batch.
  struct LaneKey {
    std::string model_digest;
    BatchShape shape;
    friend auto operator<=>(const LaneKey&, const LaneKey&) = default;
  };
  struct Lane {
    // Of jobs that are not paused. Those with fresh images: by what each was given so far, then by who came first.
    std::set<std::pair<uint64_t, JobId>> turns;
    std::set<JobId> returns;    // Those with returned images.
    int64_t images_queued = 0;  // Fresh and returned.
    int64_t images_leased = 0;
    std::map<SessionId, int32_t> images_leased_by;
    int32_t workers_serving = 0;  // Sessions that could take its batches now or soon.
    int32_t jobs = 0;             // A lane goes with its last one.
  };
  using LaneMap = std::map<LaneKey, Lane>;
  struct Job {
    LaneMap::iterator lane;
    absl::Time submitted;
    int64_t prompt_bytes = 0;
    int32_t image_count = 0;
    int32_t ended = 0;
    int32_t next_fresh = 0;              // Images from here on were never leased.
    std::deque<int32_t> returned;        // Leased before, and queued again: these go first.
    std::vector<uint8_t> attempts;       // By index.
    std::map<int32_t, SessionId> avoid;  // By index: the session that last failed it.
    std::map<LeaseId, int32_t> leases;   // How many open images of the job each has.
    uint64_t virtual_time = 0;
    bool paused = false;
    bool waiting = false;  // Its queued images are in the lane's books.

    int64_t Queued() const { return static_cast<int64_t>(returned.size()) + image_count - next_fresh; }
  };
  using JobMap = std::map<JobId, Job>;
  struct HeldLease {
    SessionId session{};
    absl::Time leased_at;
    std::vector<ImageId> images;  // By slot.
    std::vector<bool> open;       // By slot: has not ended and was not taken back.
    int32_t open_count = 0;
  };
  using LeaseMap = std::map<LeaseId, HeldLease>;
  // Who is served first: fewest leases, fewest images, longest without.
  using ReadyKey = std::tuple<size_t, int64_t, LeaseId, SessionId>;
  struct Session {
    WorkerCapacity capacity;
    std::set<LeaseId> leases;  // Those with open images.
    int64_t images_leased = 0;
    int64_t batches_sent = 0;
    int64_t batches_taken_max = 0;
    LeaseId last_lease_sent{};
    absl::Time last_report;
    absl::Time last_progress;  // Or when it got something to do.
    uint64_t progress = 0;
    bool draining = false;
    bool stuck = false;
    // Its entries in ready_ and expiries_.
    std::optional<ReadyKey> ready;
    absl::Time expiry = absl::InfiniteFuture();
  };
  using SessionMap = std::map<SessionId, Session>;

  static bool Serves(const Session& session, const LaneKey& lane);
  // Brings ready_ and expiries_ up to date after a change.
  void Reindex(SessionId id, Session& session);
  void RecountServing();

  void LevelWithOthers(Job& job);
  // Books the job's queued images into its lane, unless it is paused, and out of it again.
  void EnterLane(JobId id, Job& job);
  void LeaveLane(JobId id, Job& job);
  void ForgetJob(JobMap::iterator job);
  void EndImage(ImageId image);

  // Takes an open slot out of its lease, and the lease away with its last one.
  void CloseSlot(LeaseMap::iterator lease, int32_t slot);
  // Queues an image in front of its job.
  void RequeueImage(ImageId image);
  // Takes back what is open of a lease; images without attempts left end. `charged`: this try counts.
  void ReturnLease(LeaseMap::iterator lease, RetryReason reason, bool charged, Effects* effects);
  void ReturnAllLeases(Session& session, RetryReason reason, Effects* effects);

  // What a session would be given next, and how urgent that is.
  struct Candidate {
    bool fresh = false;         // After what came back.
    uint64_t virtual_time = 0;  // Only if fresh.
    ImageId image;
    friend auto operator<=>(const Candidate&, const Candidate&) = default;
  };
  std::optional<Candidate> PeekLane(const Lane& lane, SessionId session) const;
  // Of the lanes that the session serves, the one with the most urgent candidate. End if there is nothing for it.
  LaneMap::iterator PickLane(SessionId id, const Session& session);
  void TakeImage(const Candidate& candidate);
  std::vector<ImageId> CutBatch(SessionId id, const Session& session, const Lane& lane);
  std::optional<Lease> AssignTo(SessionId id, Session& session, absl::Time now);

  const Options options_;
  LeaseId last_lease_{};
  int64_t images_queued_ = 0;
  int64_t images_leased_ = 0;
  int64_t prompt_bytes_ = 0;
  std::map<std::string, uint64_t> virtual_times_;  // By model: that of the image served last.
  // Ordered containers: the order of iteration is part of the deterministic behaviour.
  JobMap jobs_;
  LaneMap lanes_;
  SessionMap sessions_;
  LeaseMap leases_;
  std::set<ReadyKey> ready_;  // Sessions with credit.
  std::set<std::pair<absl::Time, SessionId>> expiries_;
};

}  // namespace turbofleet
