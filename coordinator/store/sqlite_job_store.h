// Durable jobs in one file of SQLite, for one coordinator: the default.
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
#include "coordinator/store/sql_job_store.h"
#include "coordinator/store/sqlite_connection.h"

namespace turbofleet {

// What it answers with OK is on the disk, and survives a loss of power. Memory does not grow with the jobs.
class SqliteJobStore : public SqlJobStore {
 public:
  struct Options {
    std::string path;       // Of the file; "-wal" is added for the log beside it.
    int64_t bytes_max = 0;  // The file does not grow beyond it; 0: as large as the disk allows.
  };

  // Opens the file, or makes it; brings the tables of an older release up to date; frees what an earlier life held.
  // FAILED_PRECONDITION: the file is of a newer release, or no database of ours. UNAVAILABLE: another process has it.
  static absl::StatusOr<std::unique_ptr<SqliteJobStore>> Open(const Options& options);

  bool shared() const override { return false; }
  absl::Status Renew() override { return absl::OkStatus(); }
  absl::Duration lease_duration() const override { return absl::InfiniteDuration(); }
  absl::StatusOr<int64_t> TakeOverFromDead() override { return 0; }

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
  explicit SqliteJobStore(std::unique_ptr<SqliteConnection> connection) : connection_(std::move(connection)) {}

  absl::Status BeginTransaction() override;
  absl::Status CommitTransaction() override;
  void RollBackTransaction() override;
  absl::StatusOr<bool> PurgeSome() override;

  // What an earlier life left.
  absl::Status ReleaseAll();
  // NOT_FOUND: there is none, or it is submitted.
  absl::Status CheckDraft(const std::string& id);
  // The record in the query's row.
  absl::StatusOr<JobRecord> RecordOf(const SqliteQuery& row);
  absl::StatusOr<std::shared_ptr<const JobSpec>> ReadSpec(const std::string& id, const std::string& tenant,
                                                          int32_t prompts);
  absl::StatusOr<bool> HasLabels(const std::string& id, const std::map<std::string, std::string>& labels);
  // Writes what changes in a job after its submission. Its shards go with its end.
  absl::Status WriteProgress(const JobRecord& record);
  absl::Status WriteCommit(const class CommitPlan& plan);
  // Leaves it to PurgeSome(), but its start picture goes at once if it was the last to use it.
  absl::Status DeleteRow(const std::string& id);
  absl::StatusOr<std::vector<std::string>> ReadPackNames(const std::string& id, int64_t up_to_sequence);

  const std::unique_ptr<SqliteConnection> connection_;
};

}  // namespace turbofleet
