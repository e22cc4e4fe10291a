// The running durable jobs: which of their shards are here, what is on its way into the store, and who follows them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/log.h"
#include "coordinator/dispatch/messages.h"
#include "coordinator/dispatch/observer.h"
#include "coordinator/dispatch/outbox.h"
#include "coordinator/dispatch/store_queue.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

// Keeps the scheduler supplied with shards of the jobs that the store has, and brings what workers make of them into
// the store. Nothing that it tells a follower, or the store's readers, is not durable.
//
// A job is open while it has shards to claim and room to do so; a tenant has so many jobs of a class and model open at
// a time, the oldest first. A job whose pictures fill the room that it may have is paused until its client releases
// some. While the store cannot take what is made, workers go on with what is claimed, what they deliver is kept, up to
// bytes_uncommitted_max, and the commit is tried again.
//
// When a transaction fails nobody knows whether it has become durable. So commits are repeated, shards that such a
// claim may have brought are given back before the next one, and what clients may have done is looked up.
//
// Thread-compatible: Dispatcher holds the one lock around it, also when the store answers.
class DurableJobs {
 public:
  struct Options {
    int64_t jobs_running_max = 100'000;
    int64_t jobs_running_per_tenant_max = 10'000;
    int64_t images_waiting_per_tenant_max = 1'000'000'000;  // Of all running jobs of a tenant.
    int32_t jobs_open_per_tenant_max = 16;                  // Of each class and model.
    int32_t shards_claimed_max = 16;                        // At once, of one job.
    int64_t bytes_retained_max = int64_t{64} << 30;
    int64_t bytes_retained_per_tenant_max = int64_t{32} << 30;
    int64_t bytes_retained_per_job_max = int64_t{16} << 30;
    int64_t bytes_uncommitted_max = int64_t{256} << 20;  // Made, and not in the store yet.
    absl::Duration commit_retry_interval = absl::Milliseconds(500);
    absl::Duration poll_interval = absl::Milliseconds(250);  // How soon other coordinators' doings are seen.
    // How long the store has to have answered before silent coordinators are taken over from: at least a lease.
    absl::Duration take_over_patience = absl::Seconds(5);
  };
  // Injected, not owned; they outlive it.
  struct Environment {
    const Clock* clock = nullptr;
    Logger* logger = nullptr;
    DispatchObserver* observer = nullptr;
    Scheduler* scheduler = nullptr;
    StoreQueue* store = nullptr;
    Spool* spool = nullptr;
    bool shared = false;                                 // JobStore::shared().
    std::function<JobId()> next_id;                      // For the scheduler.
    std::function<bool(const JobSpec& spec)> is_served;  // Whether a worker here can make such images.
    // Keeps a start picture where workers get it, and lets it go. By SHA-256.
    std::function<absl::Status(const std::string& sha256, std::string content)> hold_input;
    std::function<void(const std::string& sha256)> release_input;
    // Runs a call with the dispatcher's lock, and then carries out what follows from it. Called without the lock.
    std::function<void(absl::FunctionRef<void(Outbox& outbox)>)> enter;
    // The store says that this coordinator was fenced. Called with the lock.
    std::function<void()> on_fenced;
  };

  DurableJobs(const Options& options, Environment environment);

  // ---- Jobs

  // Whether another job of so many images may run. RESOURCE_EXHAUSTED QUOTA_EXCEEDED, with QuotaFailure.
  absl::Status CheckQuota(const std::string& tenant, int64_t images) const;
  // A job runs: it was submitted, or found in the store.
  void Start(const JobRecord& record, Outbox& outbox);
  // A job was ended from outside.
  void Ended(const JobRecord& record, Outbox& outbox);
  // So many bytes of a job's pictures were given up.
  void Released(const JobRecord& record, int64_t bytes, Outbox& outbox);
  // A job that had ended is gone.
  void Deleted(const JobRecord& record, Outbox& outbox);
  // What tenants hold, as the store says.
  void SetUsage(const std::map<std::string, TenantUsage>& usage);
  // Nothing if the job is not running here.
  const JobRecord* Find(const std::string& id) const;
  bool WaitsForRelease(const std::string& id) const;

  // ---- Images

  bool Owns(JobId job) const { return jobs_.contains(job); }
  // Of "jobs/{job}". Nothing if the job is not running here.
  std::optional<JobId> IdOf(const std::string& name) const;
  // REQUIRES: Owns() the job.
  std::shared_ptr<const JobSpec> SpecOf(JobId job) const { return jobs_.find(job)->second.record.spec; }
  ImageToRender ToRender(ImageId image) const;
  // Ends an image. False if it had ended before, or its job has, or its shard is not here any more.
  bool EndsNow(ImageId image);
  // REQUIRES: EndsNow(image) has just said true.
  void Finish(ImageId image, FinishedImage finished);
  void Fail(ImageId image, UnfinishedImage failed);

  // ---- Followers

  // Tells the follower of every change of the job, until Unfollow().
  void Follow(const std::string& id, const std::shared_ptr<JobFollower>& follower);
  void Unfollow(const std::string& id, const std::shared_ptr<JobFollower>& follower);

  // ---- Life

  // What follows from what the scheduler was told meanwhile.
  Effects TakeEffects();
  void Tick(absl::Time now);
  // Takes nothing new: what workers have is finished and committed.
  void Drain();
  bool Drained() const { return uncommitted_.empty() && !committing_; }
  // Ends all followers.
  void EndFollowers(const absl::Status& status, Outbox& outbox);
  // Gives claimed shards to other coordinators.
  void UnclaimAll();

  int64_t running() const { return static_cast<int64_t>(jobs_.size()); }
  int64_t bytes_retained() const { return bytes_retained_; }
  int64_t bytes_uncommitted() const { return bytes_uncommitted_; }
  int64_t images_waiting() const { return images_waiting_; }

 private:
  struct Shard {
    int32_t first = 0;
    int32_t first_prompt = 0;
    std::vector<std::string> prompts;
    std::vector<bool> ended;  // By position; decided here, perhaps not committed yet.
  };
  struct Job {
    JobRecord record;
    std::map<int32_t, Shard> shards;  // By number.
    std::vector<int32_t> give_back;   // Shards that may be ours in the store and are not here.
    bool open = false;
    bool claiming = false;
    bool exhausted = false;  // The store has no further shards, for now.
    absl::Time claim_again;  // Not before, while exhausted.
    bool resting = false;    // Closed until then.
    bool input_held = false;
    bool full = false;  // It waits for a release.
    absl::Time served;  // When a worker here last could make its images.
  };
  // An image on its way into the store.
  struct Uncommitted {
    ImageId image;
    std::string job;
    std::variant<FinishedImage, UnfinishedImage> outcome;
    std::shared_ptr<const JobSpec> spec;
    int64_t bytes = 0;
  };
  struct CommitBatch;
  struct ClaimedShards;
  struct StoreView;
  // Jobs of one class and model, which wait for each other only.
  struct Line {
    int32_t open = 0;
    std::set<std::pair<absl::Time, JobId>> closed;  // Who is opened next.
  };
  // Since when the store has answered all the time, and when last.
  struct AnsweringStore {
    absl::Time since = absl::InfinitePast();
    absl::Time last = absl::InfinitePast();
  };
  struct Tenant {
    int64_t jobs_running = 0;
    int64_t images_waiting = 0;
    int64_t bytes_retained = 0;
    bool full = false;  // It may keep no further pictures.
    std::map<std::pair<JobClass, std::string>, Line> lines;
  };

  void Add(const Effects& effects);
  void Remove(JobId id);
  // The job is not in the store any more, for what reason ever.
  void Gone(const std::string& id, Outbox& outbox);
  // Takes over what the store says of a job, and counts the difference.
  void SetRecord(Job& job, const JobRecord& record);
  void CountBytes(Tenant& tenant, int64_t bytes);
  void ForgetIfUnused(const std::string& tenant);
  // What the store says of a running job now.
  void Update(JobId id, const JobRecord& record, Outbox& outbox);
  void Tell(const JobRecord& record, Outbox& outbox);
  void EndFollowersOf(const std::string& id, Outbox& outbox);

  Line& LineOf(const Job& job);
  void OpenJobs(Line& line);
  void CloseJob(JobId id, Job& job);
  // Closes a job with nothing left to lease, in favour of others.
  void MaybeRest(JobId id, Job& job);
  void WakeJobs(absl::Time now);
  bool RoomChanged();
  void UpdatePause(JobId id, Job& job);
  void UpdatePauses();
  void MaybeClaim(JobId id, Job& job);
  static ClaimedShards Claim(JobStore& store, const JobRecord& job, const std::vector<int32_t>& give_back,
                             int32_t count, bool needs_input);
  void Claimed(JobId id, ClaimedShards& claimed, const absl::Status& status);
  void AddShard(JobId id, Job& job, ClaimedShards& claimed, size_t position);
  void Unclaim(const std::string& id, const std::vector<int32_t>& shards);
  void DropShard(JobId id, Job& job, int32_t number);

  // durable_commit.cc
  void Keep(Uncommitted image);
  void DropEnded();
  void UpdateUncommittedFull();
  void MaybeCommit();
  void Committed(CommitBatch& batch, const absl::Status& status, Outbox& outbox);
  void CommittedShard(const CommitBatch& batch, const std::string& job_id, int32_t number,
                      const std::vector<size_t>& members, const absl::StatusOr<CommitReceipt>& receipt, Outbox& outbox);
  void SetStalled(bool stalled, const absl::Status& reason);

  void ExpireJobs(absl::Time now);
  void DeleteDue(absl::Time now);
  // Brings what is here in line with the store: others use it too, or it is in doubt what has become durable.
  void Poll(absl::Time now);
  static absl::StatusOr<StoreView> LookAtStore(JobStore& store, const std::set<std::string>& known, bool take_over);
  // Gives shards that no worker here can make to coordinators that may have one.
  void GiveUpUnserved();
  void Polled(const absl::StatusOr<StoreView>& view, Outbox& outbox);

  const Options options_;
  const Environment environment_;
  std::map<JobId, Job> jobs_;
  std::map<std::string, JobId> by_id_;
  std::map<std::string, Tenant> tenants_;
  std::multimap<std::string, std::shared_ptr<JobFollower>> followers_;
  std::set<std::pair<absl::Time, JobId>> deadlines_;
  std::set<JobId> open_;
  std::set<std::pair<absl::Time, JobId>> resting_;  // By claim_again.
  int64_t bytes_retained_ = 0;
  bool full_ = false;          // Nobody may keep further pictures.
  bool room_changed_ = false;  // Somebody's `full` has.
  int64_t images_waiting_ = 0;
  int64_t bytes_uncommitted_ = 0;
  std::vector<Uncommitted> uncommitted_;  // What the next commit takes.
  bool committing_ = false;
  bool stalled_ = false;  // The store could not take the last commit.
  absl::Time commit_again_;
  bool draining_ = false;
  bool uncommitted_full_ = false;
  bool deleting_ = false;
  bool polling_ = false;
  bool doubtful_ = false;    // Something here is not as it is in the store.
  int64_t failed_seen_ = 0;  // StoreQueue::failed().
  absl::Time delete_again_;
  absl::Time poll_again_;
  AnsweringStore answering_;
  Effects effects_;
};

}  // namespace turbofleet
