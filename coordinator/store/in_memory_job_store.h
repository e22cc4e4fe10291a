// Durable jobs that last as long as the process: for trying things out, for tests, and as the model of the other
// stores.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/clock.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

// The database behind one or several InMemoryJobStores. Thread-compatible, together with all of its stores.
class InMemoryDatabase {
 public:
  struct Shard {
    std::string owner;  // An incarnation; empty: nobody's.
    std::bitset<kShardImages> ended;
  };
  struct Pack {
    int64_t bytes = 0;
    int64_t last_sequence = 0;
  };
  // Results that were committed together.
  struct Batch {
    int64_t first_sequence = 0;
    int32_t shard = 0;
    std::vector<ImageResult> results;
  };
  struct Job {
    JobRecord record;
    std::string draft_of;  // The incarnation that writes the draft; empty: it is submitted.
    std::string fingerprint;
    std::shared_ptr<std::vector<std::string>> prompts = std::make_shared<std::vector<std::string>>();
    std::vector<Shard> shards;  // Those that have ever been claimed.
    std::vector<std::shared_ptr<const Batch>> batches;
    std::map<std::string, Pack> packs;
  };
  struct Coordinator {
    std::string incarnation;
    absl::Time lease_end;
  };
  // Jobs are shared with snapshots until they change.
  struct State {
    std::map<std::string, std::shared_ptr<Job>> jobs;
    std::map<std::string, std::shared_ptr<const std::string>> inputs;
    std::map<std::string, Coordinator> coordinators;
  };

  // `clock` is the database's own, by which leases are judged, and has to outlive it.
  InMemoryDatabase(const Clock& clock, absl::Duration lease_duration)
      : clock_(clock), lease_duration_(lease_duration) {}

  // All that is in it, for Restore(): so a simulation can lose what was not yet on the disk. Cheap.
  State Snapshot() const { return state_; }
  void Restore(State state) { state_ = std::move(state); }

 private:
  friend class InMemoryJobStore;
  const Clock& clock_;
  const absl::Duration lease_duration_;
  State state_;
};

// A coordinator's connection to it.
class InMemoryJobStore : public JobStore {
 public:
  struct Options {
    // Whether other coordinators use the database at the same time.
    bool shared = false;
    // The same in all lives of a coordinator, and unlike that of any other.
    std::string coordinator = "coordinator";
    // Unlike that of any other life. REQUIRES: not empty.
    std::string incarnation;
  };

  // Begins a life of the coordinator: fences those before, and frees what they held; what everybody held, if the
  // database is not shared.
  InMemoryJobStore(std::shared_ptr<InMemoryDatabase> database, Options options);

  absl::Status Transact(absl::FunctionRef<absl::Status()> body) override;
  bool shared() const override { return options_.shared; }
  absl::Status Renew() override;
  absl::Duration lease_duration() const override { return database_->lease_duration_; }
  absl::StatusOr<int64_t> TakeOverFromDead() override;

  absl::Status BeginDraft(const JobRecord& record) override;
  absl::Status AppendPrompts(const std::string& id, absl::Span<const std::string> prompts) override;
  absl::Status PutInput(const std::string& sha256, const std::string& content) override;
  absl::StatusOr<JobRecord> Submit(const std::string& id, const std::string& fingerprint) override;
  absl::Status DropDraft(const std::string& id) override;

  absl::StatusOr<JobRecord> Find(const std::string& id) override;
  absl::StatusOr<std::vector<JobRecord>> List(const JobQuery& query, int32_t max) override;
  absl::StatusOr<std::vector<JobRecord>> ListRunning(const std::string& after_id, int32_t max) override;
  absl::StatusOr<std::vector<std::string>> ListDue(absl::Time now, int32_t max) override;
  absl::StatusOr<std::map<std::string, TenantUsage>> Usage() override;
  absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& id, int32_t first, int32_t count) override;
  absl::StatusOr<std::string> ReadInput(const std::string& sha256) override;
  absl::StatusOr<std::vector<NumberedResult>> ReadResults(const std::string& id, int64_t after_sequence,
                                                          int32_t max) override;
  absl::StatusOr<std::vector<NumberedResult>> ReadShardResults(const std::string& id, int32_t shard) override;

  absl::StatusOr<std::vector<ClaimedShard>> Claim(const std::string& id, int32_t max) override;
  absl::Status Unclaim(const std::string& id, absl::Span<const int32_t> shards) override;
  absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> CommitAll(absl::Span<const ShardResults> results,
                                                                       absl::Time now) override;
  absl::StatusOr<JobRecord> End(const std::string& id, JobState state, absl::Time now) override;
  absl::StatusOr<std::vector<std::string>> ReleaseResults(const std::string& id, int64_t sequence) override;
  absl::StatusOr<int64_t> SequenceBeforeIndex(const std::string& id, int32_t index) override;
  absl::StatusOr<std::vector<std::string>> Delete(const std::string& id) override;

 private:
  using Job = InMemoryDatabase::Job;
  using State = InMemoryDatabase::State;

  State& state() { return database_->state_; }
  // ABORTED once another life has taken over.
  absl::Status CheckFence();
  // A job that is submitted, for looking; null if there is none.
  const Job* FindJob(const std::string& id);
  // The same for changing. Snapshots keep what they have.
  Job* ChangeJob(const std::string& id);
  Job& Change(std::shared_ptr<Job>& job);
  // Frees the shards and drafts of an incarnation, or of all. Returns how many shards.
  int64_t Release(const std::string* incarnation);
  void Erase(const std::string& id);
  absl::StatusOr<CommitReceipt> CommitOne(const ShardResults& results, absl::Time now);

  const std::shared_ptr<InMemoryDatabase> database_;
  const Options options_;
};

}  // namespace turbofleet
