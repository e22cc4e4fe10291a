// Durable jobs in PostgreSQL, for several coordinators at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/store/postgres_connection.h"
#include "coordinator/store/sql_job_store.h"

namespace turbofleet {

// Every change holds this coordinator's row, so that whoever takes over from it waits for the change, and changes after
// that find the row gone: ABORTED. Leases are judged by the server's clock alone. A coordinator that is paused in the
// middle of a change loses it after Options::idle_timeout.
//
// A connection that is lost is made again by the next call. Memory does not grow with the jobs.
class PostgresJobStore : public SqlJobStore {
 public:
  struct Options {
    std::string conninfo;               // As libpq takes it: "host=... dbname=..." or a URI.
    std::string schema = "turbofleet";  // Of its own; lower-case letters, digits and "_".
    std::string coordinator;            // The same in all lives of a coordinator, and unlike that of any other.
    std::string incarnation;            // Unlike that of any other life.
    absl::Duration lease_duration = absl::Seconds(5);
    absl::Duration reply_timeout = absl::Seconds(10);  // For each round trip; then UNAVAILABLE.
    absl::Duration idle_timeout = absl::Seconds(2);    // Between the statements of a transaction.
  };

  // Connects; makes the tables or brings those of an older release up to date; begins a life of the coordinator, which
  // fences those before and frees what they held. FAILED_PRECONDITION: the tables are of a newer release.
  // INVALID_ARGUMENT: the schema's name.
  static absl::StatusOr<std::unique_ptr<PostgresJobStore>> Open(const Options& options);

  bool shared() const override { return true; }
  absl::Status Renew() override;
  absl::Duration lease_duration() const override { return options_.lease_duration; }
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
  bool Idle() override;

 private:
  using JobsById = std::map<std::string, JobRecord>;

  explicit PostgresJobStore(Options options) : options_(std::move(options)) {}

  absl::Status BeginTransaction() override;
  absl::Status CommitTransaction() override;
  void RollBackTransaction() override;
  absl::StatusOr<bool> PurgeSome() override;

  absl::Status Connect();
  absl::Status BeginLife();
  absl::StatusOr<PostgresRows> Run(const char* sql, const PostgresValues& values = {});
  void Queue(const char* sql, const PostgresValues& values) { connection_->Queue(sql, values); }
  // Frees the shards and drafts of these incarnations. Returns how many shards.
  absl::StatusOr<int64_t> Release(const std::vector<std::string>& incarnations);

  // The records in rows of kJobColumns and the spec, which may be null if it is among `known`.
  absl::StatusOr<std::vector<JobRecord>> RecordsOf(const PostgresRows& rows);
  // Jobs that are submitted, by id; locked until the end of the transaction if they are to be changed.
  absl::StatusOr<JobsById> ReadJobs(const std::vector<std::string>& ids, bool lock);
  absl::StatusOr<JobRecord> FindForChange(const std::string& id);
  // Lets the rows that changed travel with the next statement.
  void QueueProgress(const std::vector<JobRecord>& records);
  void QueueCommit(const class CommitPlan& plan);
  // Leaves it to PurgeSome(), but its start picture goes at once if it was the last to use it.
  absl::Status DeleteRow(const std::string& id, const std::string& input);

  const Options options_;
  std::unique_ptr<PostgresConnection> connection_;  // Null, or broken outside of a change: to be made.
  bool in_change_ = false;
};

}  // namespace turbofleet
