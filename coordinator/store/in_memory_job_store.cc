#include "coordinator/store/in_memory_job_store.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

absl::Status NoJob(const std::string& id) { return absl::NotFoundError(absl::StrCat("there is no job ", id)); }
absl::Status NoDraft(const std::string& id) { return absl::NotFoundError(absl::StrCat("there is no draft ", id)); }

int64_t ShardCount(const JobSpec& spec) { return (spec.ImageCount() + kShardImages - 1) / kShardImages; }

int32_t ImagesIn(const JobSpec& spec, int32_t shard) {
  return std::min(kShardImages, spec.ImageCount() - shard * kShardImages);
}

void EndJob(JobRecord& record, JobState state, absl::Time now) {
  record.state = state;
  record.end_time = now;
  record.delete_time = now + record.spec->retention;
}

bool Fits(const JobRecord& record, const JobQuery& query) {
  if (query.tenant.has_value() && record.spec->tenant != *query.tenant) return false;
  if (query.state.has_value() && record.state != *query.state) return false;
  for (const auto& [key, value] : query.labels) {
    const auto label = record.spec->labels.find(key);
    if (label == record.spec->labels.end() || label->second != value) return false;
  }
  return !query.after.has_value() || record.create_time < query.after->first ||
         (record.create_time == query.after->first && record.id > query.after->second);
}

template <typename T>
void Truncate(std::vector<T>& values, int32_t max) {
  if (values.size() > static_cast<size_t>(std::max(max, 0))) values.resize(static_cast<size_t>(std::max(max, 0)));
}

}  // namespace

InMemoryJobStore::InMemoryJobStore(std::shared_ptr<InMemoryDatabase> database, Options options)
    : database_(std::move(database)), options_(std::move(options)) {
  const auto before = state().coordinators.find(options_.coordinator);
  if (!options_.shared) {
    Release(nullptr);
    state().coordinators.clear();
  } else if (before != state().coordinators.end()) {
    Release(&before->second.incarnation);
  }
  state().coordinators[options_.coordinator] = {options_.incarnation,
                                                database_->clock_.Now() + database_->lease_duration_};
}

absl::Status InMemoryJobStore::CheckFence() {
  const auto self = state().coordinators.find(options_.coordinator);
  if (self != state().coordinators.end() && self->second.incarnation == options_.incarnation) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("another life has taken over from coordinator ", options_.coordinator));
}

const InMemoryDatabase::Job* InMemoryJobStore::FindJob(const std::string& id) {
  const auto job = state().jobs.find(id);
  return job == state().jobs.end() || !job->second->draft_of.empty() ? nullptr : job->second.get();
}

InMemoryDatabase::Job* InMemoryJobStore::ChangeJob(const std::string& id) {
  const auto job = state().jobs.find(id);
  return job == state().jobs.end() || !job->second->draft_of.empty() ? nullptr : &Change(job->second);
}

InMemoryDatabase::Job& InMemoryJobStore::Change(std::shared_ptr<Job>& job) {
  if (job.use_count() > 1) job = std::make_shared<Job>(*job);
  return *job;
}

int64_t InMemoryJobStore::Release(const std::string* incarnation) {
  int64_t freed = 0;
  std::vector<std::string> drafts;
  for (auto& [id, job] : state().jobs) {
    if (!job->draft_of.empty()) {
      if (incarnation == nullptr || job->draft_of == *incarnation) drafts.push_back(id);
      continue;
    }
    if (job->record.state != JobState::kRunning) continue;
    for (size_t i = 0; i < job->shards.size(); ++i) {
      const InMemoryDatabase::Shard& shard = job->shards[i];
      const bool done =
          shard.ended.count() == static_cast<size_t>(ImagesIn(*job->record.spec, static_cast<int32_t>(i)));
      if (shard.owner.empty() || done || (incarnation != nullptr && shard.owner != *incarnation)) continue;
      Change(job).shards[i].owner.clear();
      ++freed;
    }
  }
  for (const std::string& id : drafts) Erase(id);
  return freed;
}

void InMemoryJobStore::Erase(const std::string& id) {
  const std::string input = state().jobs.at(id)->record.spec->init_image_sha256;
  state().jobs.erase(id);
  const bool used = std::any_of(state().jobs.begin(), state().jobs.end(), [&input](const auto& job) {
    return job.second->record.spec->init_image_sha256 == input;
  });
  if (!used) state().inputs.erase(input);
}

absl::Status InMemoryJobStore::Transact(absl::FunctionRef<absl::Status()> body) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  State before = state();
  const absl::Status status = body();
  if (!status.ok()) state() = std::move(before);
  return status;
}

absl::Status InMemoryJobStore::Renew() {
  if (!options_.shared) return absl::OkStatus();
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  state().coordinators[options_.coordinator].lease_end = database_->clock_.Now() + database_->lease_duration_;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> InMemoryJobStore::TakeOverFromDead() {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  int64_t freed = 0;
  for (auto other = state().coordinators.begin(); other != state().coordinators.end();) {
    if (other->first == options_.coordinator || other->second.lease_end >= database_->clock_.Now()) {
      ++other;
      continue;
    }
    freed += Release(&other->second.incarnation);
    other = state().coordinators.erase(other);
  }
  return freed;
}

absl::Status InMemoryJobStore::BeginDraft(const JobRecord& record) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  auto job = std::make_shared<Job>();
  job->record = {.id = record.id,
                 .request_id = record.request_id,
                 .spec = record.spec,
                 .create_time = record.create_time,
                 .deadline = record.deadline};
  job->draft_of = options_.incarnation;
  if (!state().jobs.emplace(record.id, std::move(job)).second) {
    return absl::AlreadyExistsError(absl::StrCat("there is a job ", record.id));
  }
  return absl::OkStatus();
}

absl::Status InMemoryJobStore::AppendPrompts(const std::string& id, absl::Span<const std::string> prompts) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  const auto found = state().jobs.find(id);
  if (found == state().jobs.end() || found->second->draft_of.empty()) return NoDraft(id);
  Job& job = Change(found->second);
  if (job.prompts.use_count() > 1) job.prompts = std::make_shared<std::vector<std::string>>(*job.prompts);
  job.prompts->insert(job.prompts->end(), prompts.begin(), prompts.end());
  return absl::OkStatus();
}

absl::Status InMemoryJobStore::PutInput(const std::string& sha256, const std::string& content) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  const bool used = std::any_of(state().jobs.begin(), state().jobs.end(), [&sha256](const auto& job) {
    return !sha256.empty() && job.second->record.spec->init_image_sha256 == sha256;
  });
  if (!used) return absl::FailedPreconditionError(absl::StrCat("no job uses the start picture ", sha256));
  state().inputs.emplace(sha256, std::make_shared<const std::string>(content));
  return absl::OkStatus();
}

absl::StatusOr<JobRecord> InMemoryJobStore::Submit(const std::string& id, const std::string& fingerprint) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  const auto found = state().jobs.find(id);
  if (found == state().jobs.end() || found->second->draft_of.empty()) return NoDraft(id);
  const JobRecord& draft = found->second->record;
  for (const auto& [other_id, other] : state().jobs) {
    if (draft.request_id.empty() || !other->draft_of.empty() || other->record.request_id != draft.request_id ||
        other->record.spec->tenant != draft.spec->tenant) {
      continue;
    }
    const std::shared_ptr<const Job> earlier = other;
    Erase(id);
    if (earlier->fingerprint == fingerprint) return earlier->record;
    return absl::AlreadyExistsError(absl::StrCat("the request was made before with other contents, as job ", other_id));
  }
  auto spec = std::make_shared<JobSpec>(*draft.spec);
  const auto prompts = static_cast<int64_t>(found->second->prompts->size());
  const int64_t images = prompts * spec->seeds_per_prompt;
  if (images == 0 || images > kJobImagesMax) {
    return absl::FailedPreconditionError(absl::StrCat("a job cannot have ", images, " images"));
  }
  spec->prompts.clear();
  spec->prompt_count = static_cast<int32_t>(prompts);
  Job& job = Change(found->second);
  job.record.spec = std::move(spec);
  job.fingerprint = fingerprint;
  job.draft_of.clear();
  return job.record;
}

absl::Status InMemoryJobStore::DropDraft(const std::string& id) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  const auto found = state().jobs.find(id);
  if (found != state().jobs.end() && !found->second->draft_of.empty()) Erase(id);
  return absl::OkStatus();
}

absl::StatusOr<JobRecord> InMemoryJobStore::Find(const std::string& id) {
  const Job* job = FindJob(id);
  if (job == nullptr) return NoJob(id);
  return job->record;
}

absl::StatusOr<std::vector<JobRecord>> InMemoryJobStore::List(const JobQuery& query, int32_t max) {
  std::vector<JobRecord> records;
  for (const auto& [id, job] : state().jobs) {
    if (job->draft_of.empty() && Fits(job->record, query)) records.push_back(job->record);
  }
  std::sort(records.begin(), records.end(), [](const JobRecord& a, const JobRecord& b) {
    return std::tie(b.create_time, a.id) < std::tie(a.create_time, b.id);
  });
  Truncate(records, max);
  return records;
}

absl::StatusOr<std::vector<JobRecord>> InMemoryJobStore::ListRunning(const std::string& after_id, int32_t max) {
  std::vector<JobRecord> records;
  for (auto job = state().jobs.upper_bound(after_id); job != state().jobs.end(); ++job) {
    if (job->second->draft_of.empty() && job->second->record.state == JobState::kRunning) {
      records.push_back(job->second->record);
    }
  }
  Truncate(records, max);
  return records;
}

absl::StatusOr<std::vector<std::string>> InMemoryJobStore::ListDue(absl::Time now, int32_t max) {
  std::vector<std::pair<absl::Time, std::string>> due;
  for (const auto& [id, job] : state().jobs) {
    if (job->record.delete_time != absl::InfiniteFuture() && job->record.delete_time <= now) {
      due.emplace_back(job->record.delete_time, id);
    }
  }
  std::sort(due.begin(), due.end());
  Truncate(due, max);
  std::vector<std::string> ids;
  for (auto& [time, id] : due) ids.push_back(std::move(id));
  return ids;
}

absl::StatusOr<std::map<std::string, TenantUsage>> InMemoryJobStore::Usage() {
  std::map<std::string, TenantUsage> usage;
  for (const auto& [id, job] : state().jobs) {
    if (!job->draft_of.empty()) continue;
    TenantUsage& tenant = usage[job->record.spec->tenant];
    ++tenant.jobs;
    tenant.bytes_retained += job->record.bytes_retained;
  }
  return usage;
}

absl::StatusOr<std::vector<std::string>> InMemoryJobStore::ReadPrompts(const std::string& id, int32_t first,
                                                                       int32_t count) {
  const Job* job = FindJob(id);
  if (job == nullptr) return NoJob(id);
  if (first < 0 || count < 0 || static_cast<int64_t>(first) + count > job->record.spec->prompt_count) {
    return absl::OutOfRangeError(absl::StrCat("job ", id, " has ", job->record.spec->prompt_count, " prompts"));
  }
  return std::vector<std::string>(job->prompts->begin() + first, job->prompts->begin() + first + count);
}

absl::StatusOr<std::string> InMemoryJobStore::ReadInput(const std::string& sha256) {
  const auto input = state().inputs.find(sha256);
  if (input == state().inputs.end()) return absl::NotFoundError(absl::StrCat("there is no start picture ", sha256));
  return *input->second;
}

absl::StatusOr<std::vector<NumberedResult>> InMemoryJobStore::ReadResults(const std::string& id, int64_t after_sequence,
                                                                          int32_t max) {
  const Job* job = FindJob(id);
  if (job == nullptr) return NoJob(id);
  if (after_sequence < job->record.released_sequence) {
    return absl::OutOfRangeError(
        absl::StrCat("the results up to ", job->record.released_sequence, " of job ", id, " are released"));
  }
  std::vector<NumberedResult> results;
  for (const auto& batch : job->batches) {
    for (size_t i = 0; i < batch->results.size() && results.size() < static_cast<size_t>(std::max(max, 0)); ++i) {
      const int64_t sequence = batch->first_sequence + static_cast<int64_t>(i);
      if (sequence > after_sequence) results.push_back({.sequence = sequence, .result = batch->results[i]});
    }
  }
  return results;
}

absl::StatusOr<std::vector<NumberedResult>> InMemoryJobStore::ReadShardResults(const std::string& id, int32_t shard) {
  const Job* job = FindJob(id);
  if (job == nullptr) return NoJob(id);
  std::vector<NumberedResult> results;
  for (const auto& batch : job->batches) {
    for (size_t i = 0; i < batch->results.size(); ++i) {
      const int64_t sequence = batch->first_sequence + static_cast<int64_t>(i);
      if (batch->shard != shard || sequence <= job->record.released_sequence) continue;
      results.push_back({.sequence = sequence, .result = batch->results[i]});
    }
  }
  std::sort(results.begin(), results.end(),
            [](const NumberedResult& a, const NumberedResult& b) { return a.result.index < b.result.index; });
  return results;
}

absl::StatusOr<std::vector<ClaimedShard>> InMemoryJobStore::Claim(const std::string& id, int32_t max) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  Job* job = ChangeJob(id);
  if (job == nullptr || job->record.state != JobState::kRunning) return NoJob(id);
  std::vector<ClaimedShard> claimed;
  for (int32_t number = 0; number < ShardCount(*job->record.spec); ++number) {
    if (claimed.size() >= static_cast<size_t>(std::max(max, 0))) break;
    if (static_cast<size_t>(number) == job->shards.size()) job->shards.emplace_back();
    InMemoryDatabase::Shard& shard = job->shards[number];
    if (!shard.owner.empty()) continue;
    shard.owner = options_.incarnation;
    ClaimedShard claim = {
        .number = number, .first = number * kShardImages, .count = ImagesIn(*job->record.spec, number)};
    for (int32_t i = 0; i < claim.count; ++i) {
      if (shard.ended[i]) claim.ended.push_back(claim.first + i);
    }
    claimed.push_back(std::move(claim));
  }
  return claimed;
}

absl::Status InMemoryJobStore::Unclaim(const std::string& id, absl::Span<const int32_t> shards) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  Job* job = ChangeJob(id);
  if (job == nullptr || job->record.state != JobState::kRunning) return absl::OkStatus();
  for (const int32_t number : shards) {
    if (number < 0 || static_cast<size_t>(number) >= job->shards.size()) continue;
    InMemoryDatabase::Shard& shard = job->shards[number];
    const bool done = shard.ended.count() == static_cast<size_t>(ImagesIn(*job->record.spec, number));
    if (!done && shard.owner == options_.incarnation) shard.owner.clear();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> InMemoryJobStore::CommitAll(
    absl::Span<const ShardResults> results, absl::Time now) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  std::vector<absl::StatusOr<CommitReceipt>> receipts;
  for (const ShardResults& one : results) receipts.push_back(CommitOne(one, now));
  return receipts;
}

absl::StatusOr<CommitReceipt> InMemoryJobStore::CommitOne(const ShardResults& results, absl::Time now) {
  Job* job = ChangeJob(results.job);
  if (job == nullptr || job->record.state != JobState::kRunning) return NoJob(results.job);
  if (results.shard < 0 || static_cast<size_t>(results.shard) >= job->shards.size() ||
      job->shards[results.shard].owner != options_.incarnation) {
    return absl::FailedPreconditionError(
        absl::StrCat("shard ", results.shard, " of job ", results.job, " is not ours"));
  }
  const int32_t first = results.shard * kShardImages;
  const int32_t count = ImagesIn(*job->record.spec, results.shard);
  for (const ImageResult& result : results.results) {
    if (result.index < first || result.index - first >= count) {
      return absl::InvalidArgumentError(absl::StrCat("image ", result.index, " is not in shard ", results.shard));
    }
  }
  InMemoryDatabase::Shard& shard = job->shards[results.shard];
  auto batch = std::make_shared<InMemoryDatabase::Batch>();
  batch->first_sequence = job->record.LastSequence() + 1;
  batch->shard = results.shard;
  CommitReceipt receipt;
  for (const ImageResult& result : results.results) {
    if (shard.ended[result.index - first]) {
      receipt.sequences.push_back(0);
      continue;
    }
    shard.ended.set(result.index - first);
    batch->results.push_back(result);
    if (const auto* picture = std::get_if<PackedPicture>(&result.outcome)) {
      ++job->record.images_completed;
      InMemoryDatabase::Pack& pack = job->packs[picture->file.pack];
      pack.bytes += picture->file.length;
      pack.last_sequence = job->record.LastSequence();
      job->record.bytes_retained += picture->file.length;
    } else {
      ++job->record.images_failed;
    }
    receipt.sequences.push_back(job->record.LastSequence());
  }
  if (!batch->results.empty()) job->batches.push_back(std::move(batch));
  receipt.shard_done = shard.ended.count() == static_cast<size_t>(count);
  if (job->record.LastSequence() == job->record.spec->ImageCount()) EndJob(job->record, JobState::kCompleted, now);
  receipt.job = job->record;
  return receipt;
}

absl::StatusOr<JobRecord> InMemoryJobStore::End(const std::string& id, JobState state, absl::Time now) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  Job* job = ChangeJob(id);
  if (job == nullptr) return NoJob(id);
  if (job->record.state == JobState::kRunning) EndJob(job->record, state, now);
  return job->record;
}

absl::StatusOr<std::vector<std::string>> InMemoryJobStore::ReleaseResults(const std::string& id, int64_t sequence) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  Job* job = ChangeJob(id);
  if (job == nullptr) return NoJob(id);
  if (sequence > job->record.LastSequence()) {
    return absl::OutOfRangeError(absl::StrCat("job ", id, " has ", job->record.LastSequence(), " results"));
  }
  std::vector<std::string> names;
  if (sequence <= job->record.released_sequence) return names;
  job->record.released_sequence = sequence;
  std::erase_if(job->batches, [sequence](const auto& batch) {
    return batch->first_sequence + static_cast<int64_t>(batch->results.size()) - 1 <= sequence;
  });
  for (auto pack = job->packs.begin(); pack != job->packs.end();) {
    if (pack->second.last_sequence > sequence) {
      ++pack;
      continue;
    }
    job->record.bytes_retained -= pack->second.bytes;
    names.push_back(pack->first);
    pack = job->packs.erase(pack);
  }
  return names;
}

absl::StatusOr<int64_t> InMemoryJobStore::SequenceBeforeIndex(const std::string& id, int32_t index) {
  const Job* job = FindJob(id);
  if (job == nullptr) return NoJob(id);
  for (const auto& batch : job->batches) {
    for (size_t i = 0; i < batch->results.size(); ++i) {
      const int64_t sequence = batch->first_sequence + static_cast<int64_t>(i);
      if (sequence > job->record.released_sequence && batch->results[i].index >= index) return sequence - 1;
    }
  }
  return job->record.LastSequence();
}

absl::StatusOr<std::vector<std::string>> InMemoryJobStore::Delete(const std::string& id) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFence());
  const Job* job = FindJob(id);
  if (job == nullptr) return NoJob(id);
  if (job->record.state == JobState::kRunning) {
    return absl::FailedPreconditionError(absl::StrCat("job ", id, " is running"));
  }
  std::vector<std::string> names;
  for (const auto& [name, pack] : job->packs) names.push_back(name);
  Erase(id);
  return names;
}

}  // namespace turbofleet
