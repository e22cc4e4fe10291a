// What a commit of results changes, decided without a database: the databases only read the rows before and write those
// after.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

// How many shards, and how many images in one of them, a job has.
int32_t ShardCountOf(const JobSpec& spec);
int32_t ImagesInShard(const JobSpec& spec, int32_t shard);

// Which images of a shard have ended, from its first one.
using EndedImages = std::bitset<kShardImages>;

// As a row keeps it: eight images a byte, the first in the lowest bit, without zeros at the end.
std::string EncodeEnded(const EndedImages& ended);
// DATA_LOSS: longer than a shard.
absl::StatusOr<EndedImages> DecodeEnded(absl::string_view bytes);

// A claimed shard. Of `ended` what lies in the shard.
ClaimedShard MakeClaim(const JobSpec& spec, int32_t shard, const EndedImages& ended);

// Ends a running job.
void EndJob(JobRecord& record, JobState state, absl::Time now);

// The job and the number of a shard.
using ShardKey = std::pair<std::string, int32_t>;

// The outcome of CommitAll().
class CommitPlan {
 public:
  // A row to insert.
  struct ResultRow {
    ShardKey shard;
    int64_t first_sequence = 0;
    int64_t last_sequence = 0;
    int32_t index_max = 0;
    std::vector<ImageResult> results;
  };
  // What to add to a pack.
  struct PackUse {
    int64_t bytes = 0;
    int64_t last_sequence = 0;
  };

  // `jobs` has those of `results` that are there and not drafts, `shards` those that are ours.
  CommitPlan(std::map<std::string, JobRecord> jobs, std::map<ShardKey, EndedImages> shards)
      : jobs_(std::move(jobs)), shards_(std::move(shards)) {}

  // Decides. The answers are those of CommitAll().
  std::vector<absl::StatusOr<CommitReceipt>> Apply(absl::Span<const ShardResults> results, absl::Time now);

  // Afterwards.
  const JobRecord& job(const std::string& id) const { return jobs_.at(id); }
  const EndedImages& ended(const ShardKey& shard) const { return shards_.at(shard); }
  bool IsDone(const ShardKey& shard) const;
  // What has changed.
  const std::set<std::string>& changed_jobs() const { return changed_jobs_; }
  const std::set<ShardKey>& changed_shards() const { return changed_shards_; }
  const std::vector<ResultRow>& rows() const { return rows_; }
  const std::map<std::pair<std::string, std::string>, PackUse>& packs() const { return packs_; }  // By job and name.

 private:
  absl::StatusOr<CommitReceipt> ApplyOne(const ShardResults& results, absl::Time now);

  std::map<std::string, JobRecord> jobs_;
  std::map<ShardKey, EndedImages> shards_;
  std::set<std::string> changed_jobs_;
  std::set<ShardKey> changed_shards_;
  std::vector<ResultRow> rows_;
  std::map<std::pair<std::string, std::string>, PackUse> packs_;
};

}  // namespace turbofleet
