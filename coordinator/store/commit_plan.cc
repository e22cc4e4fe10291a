#include "coordinator/store/commit_plan.h"

#include <algorithm>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace turbofleet {

int32_t ShardCountOf(const JobSpec& spec) { return (spec.ImageCount() + kShardImages - 1) / kShardImages; }

int32_t ImagesInShard(const JobSpec& spec, int32_t shard) {
  return std::min(kShardImages, spec.ImageCount() - shard * kShardImages);
}

std::string EncodeEnded(const EndedImages& ended) {
  std::string bytes(kShardImages / 8, '\0');
  for (int32_t i = 0; i < kShardImages; ++i) {
    if (ended[i]) bytes[i / 8] = static_cast<char>(static_cast<unsigned char>(bytes[i / 8]) | (1U << (i % 8)));
  }
  bytes.resize(bytes.find_last_not_of('\0') + 1);
  return bytes;
}

absl::StatusOr<EndedImages> DecodeEnded(absl::string_view bytes) {
  if (bytes.size() > kShardImages / 8) return absl::DataLossError("a shard in the database is too long");
  EndedImages ended;
  for (size_t i = 0; i < 8 * bytes.size(); ++i) {
    ended[i] = ((static_cast<unsigned char>(bytes[i / 8]) >> (i % 8)) & 1U) != 0;
  }
  return ended;
}

ClaimedShard MakeClaim(const JobSpec& spec, int32_t shard, const EndedImages& ended) {
  ClaimedShard claim = {.number = shard, .first = shard * kShardImages, .count = ImagesInShard(spec, shard)};
  for (int32_t i = 0; i < claim.count; ++i) {
    if (ended[i]) claim.ended.push_back(claim.first + i);
  }
  return claim;
}

void EndJob(JobRecord& record, JobState state, absl::Time now) {
  record.state = state;
  record.end_time = now;
  record.delete_time = now + record.spec->retention;
}

bool CommitPlan::IsDone(const ShardKey& shard) const {
  const int32_t count = ImagesInShard(*jobs_.at(shard.first).spec, shard.second);
  return ended(shard).count() == static_cast<size_t>(count);
}

std::vector<absl::StatusOr<CommitReceipt>> CommitPlan::Apply(absl::Span<const ShardResults> results, absl::Time now) {
  std::vector<absl::StatusOr<CommitReceipt>> receipts;
  receipts.reserve(results.size());
  for (const ShardResults& one : results) receipts.push_back(ApplyOne(one, now));
  return receipts;
}

absl::StatusOr<CommitReceipt> CommitPlan::ApplyOne(const ShardResults& results, absl::Time now) {
  const auto found = jobs_.find(results.job);
  if (found == jobs_.end() || found->second.state != JobState::kRunning) {
    return absl::NotFoundError(absl::StrCat("there is no running job ", results.job));
  }
  JobRecord& job = found->second;
  const ShardKey key = {results.job, results.shard};
  const auto shard = shards_.find(key);
  if (shard == shards_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("shard ", results.shard, " of job ", results.job, " is not ours"));
  }
  EndedImages& ended = shard->second;
  const int32_t first = results.shard * kShardImages;
  const int32_t count = ImagesInShard(*job.spec, results.shard);
  for (const ImageResult& result : results.results) {
    if (result.index < first || result.index - first >= count) {
      return absl::InvalidArgumentError(absl::StrCat("image ", result.index, " is not in shard ", results.shard));
    }
  }

  CommitReceipt receipt;
  ResultRow row = {.shard = key, .first_sequence = job.LastSequence() + 1, .results = {}};
  for (const ImageResult& result : results.results) {
    if (ended[result.index - first]) {
      receipt.sequences.push_back(0);
      continue;
    }
    ended.set(result.index - first);
    const auto* picture = std::get_if<PackedPicture>(&result.outcome);
    ++(picture != nullptr ? job.images_completed : job.images_failed);
    if (picture != nullptr) {
      PackUse& pack = packs_[{results.job, picture->file.pack}];
      pack.bytes += picture->file.length;
      pack.last_sequence = job.LastSequence();
      job.bytes_retained += picture->file.length;
    }
    row.index_max = std::max(row.index_max, result.index);
    row.results.push_back(result);
    receipt.sequences.push_back(job.LastSequence());
  }
  row.last_sequence = job.LastSequence();
  if (!row.results.empty()) {
    changed_jobs_.insert(results.job);
    changed_shards_.insert(key);
    rows_.push_back(std::move(row));
  }
  receipt.shard_done = IsDone(key);
  if (job.LastSequence() == job.spec->ImageCount()) EndJob(job, JobState::kCompleted, now);
  receipt.job = job;
  return receipt;
}

}  // namespace turbofleet
