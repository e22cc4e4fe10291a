#include "coordinator/dispatch/durable_jobs.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"

namespace turbofleet {
namespace {

constexpr absl::Duration kClaimRetryInterval = absl::Seconds(1);
constexpr absl::Duration kDeleteInterval = absl::Seconds(1);
constexpr int32_t kDeletedAtOnceMax = 100;
constexpr int32_t kPageJobs = 1'000;

absl::Status QuotaExceeded(const std::string& limit, int64_t max, const std::string& what) {
  const std::string description = absl::StrCat("no more than ", max, " ", what);
  return WithQuotaFailure(MakeError(absl::StatusCode::kResourceExhausted, "QUOTA_EXCEEDED",
                                    absl::StrCat(limit, ": ", description), {{"limit", limit}}),
                          limit, description);
}

int64_t ImagesLeft(const JobRecord& record) {
  return record.state == JobState::kRunning ? record.spec->ImageCount() - record.LastSequence() : 0;
}

}  // namespace

// What a claim brought, on its way from the store's thread.
struct DurableJobs::ClaimedShards {
  struct WithPrompts {
    ClaimedShard shard;
    int32_t first_prompt = 0;
    std::vector<std::string> prompts;
  };
  absl::Status status;
  std::string input;  // The start picture, if the job needs one that is not held.
  std::vector<WithPrompts> shards;
};

DurableJobs::DurableJobs(const Options& options, Environment environment)
    : options_(options), environment_(std::move(environment)) {}

// ---------------------------------------------------------------------------------------------------------------------
// Jobs

absl::Status DurableJobs::CheckQuota(const std::string& tenant, int64_t images) const {
  if (running() >= options_.jobs_running_max) {
    return QuotaExceeded("jobs_running_max", options_.jobs_running_max, "jobs run at a time");
  }
  if (stalled_) {
    return MakeError(absl::StatusCode::kResourceExhausted, "STORE_UNAVAILABLE",
                     "the coordinator cannot write results at present, so it takes no new jobs");
  }
  if (bytes_retained_ >= options_.bytes_retained_max) {
    return QuotaExceeded("bytes_retained_max", options_.bytes_retained_max, "bytes of pictures are kept");
  }
  const auto found = tenants_.find(tenant);
  const Tenant none;
  const Tenant& books = found == tenants_.end() ? none : found->second;
  if (books.jobs_running >= options_.jobs_running_per_tenant_max) {
    return QuotaExceeded("jobs_running_per_tenant_max", options_.jobs_running_per_tenant_max,
                         "jobs of a tenant run at a time");
  }
  if (books.images_waiting + images > options_.images_waiting_per_tenant_max) {
    return QuotaExceeded("images_waiting_per_tenant_max", options_.images_waiting_per_tenant_max,
                         "images of a tenant wait at a time");
  }
  if (books.bytes_retained >= options_.bytes_retained_per_tenant_max) {
    return QuotaExceeded("bytes_retained_per_tenant_max", options_.bytes_retained_per_tenant_max,
                         "bytes of a tenant's pictures are kept; release or delete some");
  }
  return absl::OkStatus();
}

void DurableJobs::Start(const JobRecord& record, Outbox& outbox) {
  if (record.state != JobState::kRunning || by_id_.contains(record.id)) {
    Tell(record, outbox);
    return;
  }
  const JobId id = environment_.next_id();
  by_id_[record.id] = id;
  Job& job = jobs_[id];
  job.record = record;
  if (record.deadline != absl::InfiniteFuture()) deadlines_.emplace(record.deadline, id);
  Tenant& tenant = tenants_[record.spec->tenant];
  ++tenant.jobs_running;
  tenant.images_waiting += ImagesLeft(record);
  images_waiting_ += ImagesLeft(record);
  environment_.scheduler->Submit({.id = id,
                                  .tenant = record.spec->tenant,
                                  .job_class = record.spec->job_class,
                                  .model_digest = record.spec->model_digest,
                                  .shape = record.spec->shape},
                                 environment_.clock->Now());
  tenant.closed.emplace(record.spec->job_class, record.create_time, id);
  UpdatePause(id, job);
  OpenJobs(tenant);
}

void DurableJobs::Remove(JobId id) {
  const auto found = jobs_.find(id);
  Job& job = found->second;
  const std::string tenant_name = job.record.spec->tenant;
  Tenant& tenant = tenants_[tenant_name];
  if (job.open) CloseJob(job);
  tenant.closed.erase({job.record.spec->job_class, job.record.create_time, id});
  --tenant.jobs_running;
  tenant.images_waiting -= ImagesLeft(job.record);
  images_waiting_ -= ImagesLeft(job.record);
  deadlines_.erase({job.record.deadline, id});
  by_id_.erase(job.record.id);
  if (job.input_held) environment_.release_input(job.record.spec->init_image_sha256);
  Add(environment_.scheduler->Cancel(id));
  jobs_.erase(found);
  OpenJobs(tenant);
}

void DurableJobs::Ended(const JobRecord& record, Outbox& outbox) {
  const auto found = by_id_.find(record.id);
  if (found != by_id_.end()) {
    const Job& job = jobs_.find(found->second)->second;
    const int64_t left = record.spec->ImageCount() - record.LastSequence();
    if (left > 0) environment_.observer->OnImagesCancelled(*job.record.spec, left);
    environment_.logger->Info("job ended", {{"job", record.spec->name},
                                            {"images", record.spec->ImageCount()},
                                            {"failed", record.images_failed},
                                            {"not_made", left}});
    Remove(found->second);
  }
  Tell(record, outbox);
}

void DurableJobs::Update(JobId id, const JobRecord& record, Outbox& outbox) {
  Job& job = jobs_.find(id)->second;
  Tenant& tenant = tenants_[record.spec->tenant];
  const int64_t waiting = ImagesLeft(record) - ImagesLeft(job.record);
  const int64_t bytes = record.bytes_retained - job.record.bytes_retained;
  tenant.images_waiting += waiting;
  images_waiting_ += waiting;
  tenant.bytes_retained += bytes;
  bytes_retained_ += bytes;
  // The description stays the one object that batches refer to.
  std::shared_ptr<const JobSpec> spec = std::move(job.record.spec);
  job.record = record;
  job.record.spec = std::move(spec);
  if (record.state != JobState::kRunning) {
    // With its end the job goes, and its record with it.
    Ended(JobRecord(job.record), outbox);
    return;
  }
  UpdatePause(id, job);
  Tell(job.record, outbox);
}

void DurableJobs::Released(const JobRecord& record, int64_t bytes, Outbox& outbox) {
  const auto found = by_id_.find(record.id);
  if (found != by_id_.end()) {
    Update(found->second, record, outbox);
  } else {
    bytes_retained_ -= bytes;
    tenants_[record.spec->tenant].bytes_retained -= bytes;
  }
  UpdatePauses();
}

void DurableJobs::SetUsage(const std::map<std::string, TenantUsage>& usage) {
  bytes_retained_ = 0;
  for (auto& [name, tenant] : tenants_) tenant.bytes_retained = 0;
  for (const auto& [name, held] : usage) {
    tenants_[name].bytes_retained = held.bytes_retained;
    bytes_retained_ += held.bytes_retained;
  }
  UpdatePauses();
}

const JobRecord* DurableJobs::Find(const std::string& id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &jobs_.find(found->second)->second.record;
}

bool DurableJobs::WaitsForRelease(const std::string& id) const {
  const auto found = by_id_.find(id);
  return found != by_id_.end() && jobs_.find(found->second)->second.full;
}

// ---------------------------------------------------------------------------------------------------------------------
// Open jobs and their shards

void DurableJobs::OpenJobs(Tenant& tenant) {
  while (!draining_ && tenant.jobs_open < options_.jobs_open_per_tenant_max && !tenant.closed.empty()) {
    const JobId id = std::get<JobId>(*tenant.closed.begin());
    tenant.closed.erase(tenant.closed.begin());
    Job& job = jobs_.find(id)->second;
    job.open = true;
    ++tenant.jobs_open;
    MaybeClaim(id, job);
  }
}

void DurableJobs::CloseJob(Job& job) {
  job.open = false;
  --tenants_[job.record.spec->tenant].jobs_open;
}

void DurableJobs::UpdatePause(JobId id, Job& job) {
  const std::string& name = job.record.spec->tenant;
  Tenant& tenant = tenants_[name];
  const bool full =
      job.record.bytes_retained >= options_.bytes_retained_per_job_max ||
      (job.record.bytes_retained > 0 && (tenant.bytes_retained >= options_.bytes_retained_per_tenant_max ||
                                         bytes_retained_ >= options_.bytes_retained_max));
  if (full != job.full) {
    job.full = full;
    const auto turn = std::tuple(job.record.spec->job_class, job.record.create_time, id);
    if (!full) {
      tenant.closed.insert(turn);
    } else if (job.open) {
      CloseJob(job);
    } else {
      tenant.closed.erase(turn);
    }
    environment_.logger->Info(full ? "job waits for a release" : "job goes on",
                              {{"job", job.record.spec->name}, {"bytes", job.record.bytes_retained}});
    OpenJobs(tenant);
  }
  environment_.scheduler->SetPaused(id, full || stalled_ || draining_ || uncommitted_full_);
}

void DurableJobs::UpdatePauses() {
  for (auto& [id, job] : jobs_) UpdatePause(id, job);
}

void DurableJobs::MaybeClaim(JobId id, Job& job) {
  const absl::Time now = environment_.clock->Now();
  if (!job.open || job.claiming || draining_ || stalled_ || (job.exhausted && now < job.claim_again)) return;
  if (environment_.scheduler->Queued(id) >= kShardImages) return;
  // A fleet that has many images in its hands takes many at once.
  const int64_t wanted = 1 + environment_.scheduler->Load(now).images_leased / kShardImages;
  const auto count = static_cast<int32_t>(std::min<int64_t>(wanted, options_.shards_claimed_max));
  job.claiming = true;
  const auto claimed = std::make_shared<ClaimedShards>();
  const std::string& sha256 = job.record.spec->init_image_sha256;
  const bool needs_input = !sha256.empty() && !job.input_held;
  environment_.store->Post(
      [claimed, count, needs_input, record_id = job.record.id, spec = job.record.spec](JobStore& store, Spool&) {
        *claimed = Claim(store, record_id, *spec, count, needs_input);
      },
      [this, id, claimed](const absl::Status& status) {
        environment_.enter([&](Outbox&) { Claimed(id, *claimed, status.ok() ? claimed->status : status); });
      });
}

DurableJobs::ClaimedShards DurableJobs::Claim(JobStore& store, const std::string& id, const JobSpec& spec,
                                              int32_t count, bool needs_input) {
  ClaimedShards claimed;
  if (needs_input) {
    absl::StatusOr<std::string> input = store.ReadInput(spec.init_image_sha256);
    claimed.status = input.status();
    if (!input.ok()) return claimed;
    claimed.input = *std::move(input);
  }
  absl::StatusOr<std::vector<ClaimedShard>> shards = store.Claim(id, count);
  claimed.status = shards.status();
  if (!shards.ok()) return claimed;
  for (ClaimedShard& shard : *shards) {
    const int32_t first_prompt = spec.PromptIndexOf(shard.first);
    const int32_t prompts = spec.PromptIndexOf(shard.first + shard.count - 1) - first_prompt + 1;
    absl::StatusOr<std::vector<std::string>> texts = store.ReadPrompts(id, first_prompt, prompts);
    if (!texts.ok()) {
      claimed.status = texts.status();
      store.Unclaim(id, {shard.number}).IgnoreError();
      continue;
    }
    claimed.shards.push_back({std::move(shard), first_prompt, *std::move(texts)});
  }
  return claimed;
}

void DurableJobs::Claimed(JobId id, ClaimedShards& claimed, const absl::Status& status) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;  // It has ended meanwhile, and its shards with it.
  Job& job = found->second;
  job.claiming = false;
  if (absl::IsAborted(status)) {
    environment_.on_fenced();
    return;
  }
  bool usable = true;
  if (!claimed.input.empty()) {
    const absl::Status held = environment_.hold_input(job.record.spec->init_image_sha256, std::move(claimed.input));
    job.input_held = usable = held.ok();
  }
  job.exhausted = !status.ok() || claimed.shards.empty() || !usable;
  job.claim_again = environment_.clock->Now() + kClaimRetryInterval;
  if (!status.ok()) {
    environment_.logger->Warning("cannot claim", {{"job", job.record.spec->name}, {"error", status.ToString()}});
  }
  std::vector<int32_t> unusable;
  for (ClaimedShards::WithPrompts& with : claimed.shards) {
    const ClaimedShard& shard = with.shard;
    if (!usable || draining_) {
      unusable.push_back(shard.number);
      continue;
    }
    Shard& ours = job.shards[shard.number];
    ours = {.first = shard.first,
            .first_prompt = with.first_prompt,
            .prompts = std::move(with.prompts),
            .ended = std::vector<bool>(shard.count),
            .left = shard.count - static_cast<int32_t>(shard.ended.size())};
    for (const int32_t index : shard.ended) ours.ended[index - shard.first] = true;
    environment_.scheduler->AddImages(id, shard.first, shard.count, shard.ended, environment_.clock->Now());
  }
  if (!unusable.empty()) Unclaim(job.record.id, std::move(unusable));
  MaybeClaim(id, job);
}

void DurableJobs::Unclaim(const std::string& id, std::vector<int32_t> shards) {
  environment_.store->Post(
      [id, shards = std::move(shards)](JobStore& store, Spool&) { store.Unclaim(id, shards).IgnoreError(); },
      [](const absl::Status&) {});
}

void DurableJobs::UnclaimAll() {
  for (auto& [id, job] : jobs_) {
    if (job.shards.empty()) continue;
    std::vector<int32_t> shards;
    for (const auto& [number, shard] : job.shards) shards.push_back(number);
    Unclaim(job.record.id, std::move(shards));
  }
}

void DurableJobs::DropShard(JobId id, Job& job, int32_t number) {
  const auto shard = job.shards.find(number);
  if (shard == job.shards.end()) return;
  environment_.logger->Warning("shard went to another coordinator",
                               {{"job", job.record.spec->name}, {"shard", number}});
  Add(environment_.scheduler->DropImages(id, shard->second.first, static_cast<int32_t>(shard->second.ended.size())));
  job.shards.erase(shard);
}

// ---------------------------------------------------------------------------------------------------------------------
// Images

std::optional<JobId> DurableJobs::IdOf(const std::string& name) const {
  constexpr std::string_view kPrefix = "jobs/";
  if (!std::string_view(name).starts_with(kPrefix)) return std::nullopt;
  const auto found = by_id_.find(name.substr(kPrefix.size()));
  return found == by_id_.end() ? std::nullopt : std::optional(found->second);
}

ImageToRender DurableJobs::ToRender(ImageId image) const {
  const Job& job = jobs_.find(image.job)->second;
  const Shard& shard = job.shards.find(image.index / kShardImages)->second;
  const JobSpec& spec = *job.record.spec;
  return {.spec = job.record.spec,
          .index = image.index,
          .prompt = shard.prompts[spec.PromptIndexOf(image.index) - shard.first_prompt],
          .durable = true};
}

bool DurableJobs::EndsNow(ImageId image) {
  const auto job = jobs_.find(image.job);
  if (job == jobs_.end()) return false;
  const auto shard = job->second.shards.find(image.index / kShardImages);
  if (shard == job->second.shards.end()) return false;
  std::vector<bool>::reference ended = shard->second.ended[image.index - shard->second.first];
  if (ended) return false;
  ended = true;
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Followers

void DurableJobs::Follow(const std::string& id, const std::shared_ptr<JobFollower>& follower) {
  followers_.emplace(id, follower);
}

void DurableJobs::Unfollow(const std::string& id, const std::shared_ptr<JobFollower>& follower) {
  const auto [first, last] = followers_.equal_range(id);
  const auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second == follower; });
  if (found != last) followers_.erase(found);
}

void DurableJobs::Tell(const JobRecord& record, Outbox& outbox) {
  const bool waits = WaitsForRelease(record.id);
  const auto [first, last] = followers_.equal_range(record.id);
  for (auto entry = first; entry != last; ++entry) outbox.To(entry->second).PostRecord(record, waits);
}

void DurableJobs::Deleted(const std::string& id, Outbox& outbox) {
  const auto [first, last] = followers_.equal_range(id);
  for (auto entry = first; entry != last; ++entry) {
    outbox.To(entry->second)
        .PostEnd(MakeError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "name: the job was deleted"));
  }
  followers_.erase(first, last);
}

void DurableJobs::EndFollowers(const absl::Status& status, Outbox& outbox) {
  for (const auto& [id, follower] : followers_) outbox.To(follower).PostEnd(status);
  followers_.clear();
}

// ---------------------------------------------------------------------------------------------------------------------
// Life

void DurableJobs::Add(const Effects& effects) {
  // Nothing else comes of taking images away.
  effects_.abandoned.insert(effects_.abandoned.end(), effects.abandoned.begin(), effects.abandoned.end());
}

Effects DurableJobs::TakeEffects() { return std::exchange(effects_, {}); }

void DurableJobs::Drain() {
  draining_ = true;
  UpdatePauses();
}

void DurableJobs::Tick(absl::Time now) {
  if (!uncommitted_.empty() && now >= commit_again_) MaybeCommit();
  for (auto& [name, tenant] : tenants_) OpenJobs(tenant);
  for (auto& [id, job] : jobs_) MaybeClaim(id, job);
  ExpireJobs(now);
  if (draining_) return;
  DeleteDue(now);
  if (environment_.shared) Poll(now);
}

void DurableJobs::ExpireJobs(absl::Time now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const std::string id = jobs_.find(deadlines_.begin()->second)->second.record.id;
    deadlines_.erase(deadlines_.begin());
    const auto ended = std::make_shared<absl::StatusOr<JobRecord>>(absl::UnknownError("not run"));
    environment_.store->Post(
        [ended, id, now](JobStore& store, Spool&) { *ended = store.End(id, JobState::kExpired, now); },
        [this, ended, id, now](const absl::Status& status) {
          environment_.enter([&](Outbox& outbox) {
            if (status.ok() && ended->ok()) {
              Ended(**ended, outbox);
            } else if (const auto found = by_id_.find(id); found != by_id_.end()) {
              deadlines_.emplace(now + kClaimRetryInterval, found->second);  // The store is away: again later.
            }
          });
        });
  }
}

void DurableJobs::DeleteDue(absl::Time now) {
  if (deleting_ || now < delete_again_) return;
  deleting_ = true;
  delete_again_ = now + kDeleteInterval;
  struct Due {
    std::vector<JobRecord> deleted;
  };
  const auto due = std::make_shared<Due>();
  environment_.store->Post(
      [due, now](JobStore& store, Spool&) {
        due->deleted.clear();
        const absl::StatusOr<std::vector<std::string>> ids = store.ListDue(now, kDeletedAtOnceMax);
        if (!ids.ok()) return;
        for (const std::string& id : *ids) {
          const absl::StatusOr<JobRecord> record = store.Find(id);
          if (record.ok() && store.Delete(id).ok()) due->deleted.push_back(*record);
        }
      },
      [this, due](const absl::Status& status) {
        if (status.ok()) {
          for (const JobRecord& record : due->deleted) environment_.spool->RemoveJob(record.id);
        }
        environment_.enter([&](Outbox& outbox) {
          deleting_ = false;
          if (!status.ok()) return;
          for (const JobRecord& record : due->deleted) {
            Released(record, record.bytes_retained, outbox);
            Deleted(record.id, outbox);
          }
        });
      });
}

// ---------------------------------------------------------------------------------------------------------------------
// Other coordinators on the same store

void DurableJobs::Poll(absl::Time now) {
  if (polling_ || now < poll_again_) return;
  polling_ = true;
  poll_again_ = now + options_.poll_interval;
  struct Answers {
    absl::Status fence;
    std::vector<JobRecord> running;
    std::vector<JobRecord> followed;
    std::map<std::string, TenantUsage> usage;
  };
  const auto answers = std::make_shared<Answers>();
  std::set<std::string> followed;
  for (const auto& [id, follower] : followers_) followed.insert(id);
  for (const auto& [id, job] : by_id_) followed.insert(id);
  environment_.store->Post(
      [answers, followed](JobStore& store, Spool&) {
        *answers = {};
        answers->fence = store.Renew();
        if (!answers->fence.ok()) return;
        answers->fence = store.TakeOverFromDead().status();
        std::string after;
        while (true) {
          absl::StatusOr<std::vector<JobRecord>> page = store.ListRunning(after, kPageJobs);
          if (!page.ok() || page->empty()) break;
          after = page->back().id;
          for (JobRecord& record : *page) answers->running.push_back(std::move(record));
          if (answers->running.size() % kPageJobs != 0) break;
        }
        std::set<std::string> running;
        for (const JobRecord& record : answers->running) running.insert(record.id);
        for (const std::string& id : followed) {
          if (running.contains(id)) continue;
          absl::StatusOr<JobRecord> record = store.Find(id);
          if (record.ok()) answers->followed.push_back(*std::move(record));
        }
        if (absl::StatusOr<std::map<std::string, TenantUsage>> usage = store.Usage(); usage.ok()) {
          answers->usage = *std::move(usage);
        }
      },
      [this, answers](const absl::Status& status) {
        environment_.enter([&](Outbox& outbox) {
          polling_ = false;
          if (!status.ok()) return;
          if (absl::IsAborted(answers->fence)) {
            environment_.on_fenced();
            return;
          }
          for (const JobRecord& record : answers->running) {
            const auto found = by_id_.find(record.id);
            if (found == by_id_.end()) {
              Start(record, outbox);
            } else if (record.LastSequence() >= jobs_.find(found->second)->second.record.LastSequence()) {
              Update(found->second, record, outbox);
            }
          }
          for (const JobRecord& record : answers->followed) Ended(record, outbox);
          SetUsage(answers->usage);
        });
      });
}

}  // namespace turbofleet
