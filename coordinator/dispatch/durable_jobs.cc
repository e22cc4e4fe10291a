#include "coordinator/dispatch/durable_jobs.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/status.h"

namespace turbofleet {
namespace {

constexpr absl::Duration kClaimRetryInterval = absl::Seconds(1);
constexpr absl::Duration kDeleteInterval = absl::Seconds(1);
constexpr int32_t kDeletedAtOnceMax = 100;
constexpr int32_t kPageJobs = 1'000;
constexpr absl::Duration kUnservedTimeout = absl::Seconds(2);  // So that a worker may dial again.

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
  std::vector<int32_t> given_back;  // Before the claim.
  std::string input;                // The start picture, if the job needs one that is not held.
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
  Line& line = LineOf(job);
  line.closed.emplace(record.create_time, id);
  UpdatePause(id, job);
  OpenJobs(line);
}

void DurableJobs::Remove(JobId id) {
  const auto found = jobs_.find(id);
  Job& job = found->second;
  const std::string tenant_name = job.record.spec->tenant;
  Tenant& tenant = tenants_[tenant_name];
  Line& line = LineOf(job);
  if (job.open) CloseJob(id, job);
  if (job.resting) resting_.erase({job.claim_again, id});
  line.closed.erase({job.record.create_time, id});
  --tenant.jobs_running;
  tenant.images_waiting -= ImagesLeft(job.record);
  images_waiting_ -= ImagesLeft(job.record);
  deadlines_.erase({job.record.deadline, id});
  by_id_.erase(job.record.id);
  if (job.input_held) environment_.release_input(job.record.spec->init_image_sha256);
  Add(environment_.scheduler->Cancel(id));
  jobs_.erase(found);
  OpenJobs(line);
  ForgetIfUnused(tenant_name);
}

void DurableJobs::ForgetIfUnused(const std::string& name) {
  const auto tenant = tenants_.find(name);
  if (tenant == tenants_.end() || tenant->second.jobs_running > 0 || tenant->second.bytes_retained != 0) return;
  tenants_.erase(tenant);
}

void DurableJobs::CountBytes(Tenant& tenant, int64_t bytes) {
  tenant.bytes_retained += bytes;
  bytes_retained_ += bytes;
  const bool tenant_full = tenant.bytes_retained >= options_.bytes_retained_per_tenant_max;
  const bool full = bytes_retained_ >= options_.bytes_retained_max;
  room_changed_ = room_changed_ || tenant_full != tenant.full || full != full_;
  tenant.full = tenant_full;
  full_ = full;
}

bool DurableJobs::RoomChanged() { return std::exchange(room_changed_, false); }

void DurableJobs::SetRecord(Job& job, const JobRecord& record) {
  Tenant& tenant = tenants_[job.record.spec->tenant];
  const int64_t waiting = ImagesLeft(record) - ImagesLeft(job.record);
  tenant.images_waiting += waiting;
  images_waiting_ += waiting;
  CountBytes(tenant, record.bytes_retained - job.record.bytes_retained);
  // The description stays the one object that batches refer to.
  std::shared_ptr<const JobSpec> spec = std::move(job.record.spec);
  job.record = record;
  job.record.spec = std::move(spec);
}

void DurableJobs::Ended(const JobRecord& record, Outbox& outbox) {
  const auto found = by_id_.find(record.id);
  if (found != by_id_.end()) {
    Job& job = jobs_.find(found->second)->second;
    SetRecord(job, record);
    const int64_t left = record.spec->ImageCount() - record.LastSequence();
    if (left > 0) environment_.observer->OnImagesCancelled(*job.record.spec, left);
    environment_.logger->Info("job ended", {{"job", record.spec->name},
                                            {"images", record.spec->ImageCount()},
                                            {"failed", record.images_failed},
                                            {"not_made", left}});
    Remove(found->second);
  }
  Tell(record, outbox);
  if (RoomChanged()) UpdatePauses();
}

void DurableJobs::Gone(const std::string& id, Outbox& outbox) {
  const auto found = by_id_.find(id);
  if (found != by_id_.end()) {
    JobRecord record = jobs_.find(found->second)->second.record;
    record.state = JobState::kCancelled;
    record.bytes_retained = 0;
    Ended(record, outbox);
  }
  EndFollowersOf(id, outbox);
}

void DurableJobs::Update(JobId id, const JobRecord& record, Outbox& outbox) {
  Job& job = jobs_.find(id)->second;
  if (record.state != JobState::kRunning) {
    Ended(record, outbox);
    return;
  }
  SetRecord(job, record);
  UpdatePause(id, job);
  Tell(job.record, outbox);
  if (RoomChanged()) UpdatePauses();
}

void DurableJobs::Released(const JobRecord& record, int64_t bytes, Outbox& outbox) {
  const auto found = by_id_.find(record.id);
  if (found != by_id_.end()) {
    Update(found->second, record, outbox);
    return;
  }
  CountBytes(tenants_[record.spec->tenant], -bytes);
  ForgetIfUnused(record.spec->tenant);
  if (RoomChanged()) UpdatePauses();
}

void DurableJobs::SetUsage(const std::map<std::string, TenantUsage>& usage) {
  for (auto& [name, tenant] : tenants_) {
    if (!usage.contains(name)) CountBytes(tenant, -tenant.bytes_retained);
  }
  for (const auto& [name, held] : usage) {
    Tenant& tenant = tenants_[name];
    CountBytes(tenant, held.bytes_retained - tenant.bytes_retained);
  }
  std::erase_if(tenants_, [](const auto& tenant) {
    return tenant.second.jobs_running == 0 && tenant.second.bytes_retained == 0;
  });
  if (RoomChanged()) UpdatePauses();
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

DurableJobs::Line& DurableJobs::LineOf(const Job& job) {
  const JobSpec& spec = *job.record.spec;
  return tenants_[spec.tenant].lines[{spec.job_class, spec.model_digest}];
}

void DurableJobs::OpenJobs(Line& line) {
  while (!draining_ && line.open < options_.jobs_open_per_tenant_max && !line.closed.empty()) {
    const JobId id = line.closed.begin()->second;
    line.closed.erase(line.closed.begin());
    Job& job = jobs_.find(id)->second;
    job.open = true;
    ++line.open;
    open_.insert(id);
    MaybeClaim(id, job);
  }
}

void DurableJobs::CloseJob(JobId id, Job& job) {
  job.open = false;
  --LineOf(job).open;
  open_.erase(id);
}

void DurableJobs::MaybeRest(JobId id, Job& job) {
  if (!job.open || job.claiming || !job.exhausted || environment_.scheduler->Queued(id) > 0) return;
  CloseJob(id, job);
  job.resting = true;
  resting_.emplace(job.claim_again, id);
  OpenJobs(LineOf(job));
}

void DurableJobs::WakeJobs(absl::Time now) {
  while (!resting_.empty() && resting_.begin()->first <= now) {
    const JobId id = resting_.begin()->second;
    resting_.erase(resting_.begin());
    Job& job = jobs_.find(id)->second;
    job.resting = false;
    Line& line = LineOf(job);
    if (!job.full) line.closed.emplace(job.record.create_time, id);
    OpenJobs(line);
  }
}

void DurableJobs::UpdatePause(JobId id, Job& job) {
  const bool full = job.record.bytes_retained >= options_.bytes_retained_per_job_max ||
                    (job.record.bytes_retained > 0 && (tenants_[job.record.spec->tenant].full || full_));
  if (full != job.full) {
    job.full = full;
    Line& line = LineOf(job);
    if (!full && !job.resting) {
      line.closed.emplace(job.record.create_time, id);
    } else if (job.open) {
      CloseJob(id, job);
    } else {
      line.closed.erase({job.record.create_time, id});
    }
    environment_.logger->Info(full ? "job waits for a release" : "job goes on",
                              {{"job", job.record.spec->name}, {"bytes", job.record.bytes_retained}});
    OpenJobs(line);
  }
  environment_.scheduler->SetPaused(id, full || draining_ || uncommitted_full_);
}

void DurableJobs::UpdatePauses() {
  for (auto& [id, job] : jobs_) UpdatePause(id, job);
}

void DurableJobs::MaybeClaim(JobId id, Job& job) {
  const absl::Time now = environment_.clock->Now();
  if (!job.open || job.claiming || draining_ || stalled_ || (job.exhausted && now < job.claim_again)) return;
  if (environment_.scheduler->Queued(id) >= kShardImages) return;
  if (environment_.shared && !environment_.is_served(*job.record.spec)) return;
  job.served = now;
  // A fleet that has many images in its hands takes many at once.
  const int64_t wanted = 1 + environment_.scheduler->Load(now).images_leased / kShardImages;
  const auto count = static_cast<int32_t>(std::min<int64_t>(wanted, options_.shards_claimed_max));
  job.claiming = true;
  const auto claimed = std::make_shared<ClaimedShards>();
  claimed->given_back = std::exchange(job.give_back, {});
  const bool needs_input = !job.record.spec->init_image_sha256.empty() && !job.input_held;
  environment_.store->Post(
      [claimed, count, needs_input, record = job.record](JobStore& store, Spool&) {
        *claimed = Claim(store, record, claimed->given_back, count, needs_input);
      },
      [this, id, claimed](const absl::Status& status) {
        environment_.enter([&](Outbox&) { Claimed(id, *claimed, status); });
      });
}

DurableJobs::ClaimedShards DurableJobs::Claim(JobStore& store, const JobRecord& job,
                                              const std::vector<int32_t>& give_back, int32_t count, bool needs_input) {
  ClaimedShards claimed;
  claimed.given_back = give_back;
  if (needs_input) {
    absl::StatusOr<std::string> input = store.ReadInput(job.spec->init_image_sha256);
    claimed.status = input.status();
    if (!input.ok()) return claimed;
    claimed.input = *std::move(input);
  }
  if (!give_back.empty()) claimed.status = store.Unclaim(job.id, give_back);
  if (!claimed.status.ok()) return claimed;
  absl::StatusOr<std::vector<ClaimedShard>> shards = store.Claim(job.id, count);
  claimed.status = shards.status();
  if (!shards.ok()) return claimed;
  for (ClaimedShard& shard : *shards) {
    const int32_t first_prompt = job.spec->PromptIndexOf(shard.first);
    const int32_t prompts = job.spec->PromptIndexOf(shard.first + shard.count - 1) - first_prompt + 1;
    absl::StatusOr<std::vector<std::string>> texts = store.ReadPrompts(job.id, first_prompt, prompts);
    if (!texts.ok()) {
      claimed.status = texts.status();
      store.Unclaim(job.id, {shard.number}).IgnoreError();
      continue;
    }
    claimed.shards.push_back({std::move(shard), first_prompt, *std::move(texts)});
  }
  return claimed;
}

void DurableJobs::Claimed(JobId id, ClaimedShards& claimed, const absl::Status& transaction) {
  const absl::Status status = transaction.ok() ? claimed.status : transaction;
  if (absl::IsAborted(status)) {
    environment_.on_fenced();
    return;
  }
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;  // It has ended meanwhile, and its shards with it.
  Job& job = found->second;
  job.claiming = false;
  bool usable = transaction.ok();
  if (usable && !claimed.input.empty()) {
    const absl::Status held = environment_.hold_input(job.record.spec->init_image_sha256, std::move(claimed.input));
    job.input_held = usable = held.ok();
  }
  job.exhausted = !status.ok() || claimed.shards.empty() || !usable;
  job.claim_again = environment_.clock->Now() + kClaimRetryInterval;
  if (!status.ok()) {
    environment_.logger->Warning("cannot claim", {{"job", job.record.spec->name}, {"error", status.ToString()}});
    // Either it has ended without our knowing, or what was to be given back has not been.
    doubtful_ = doubtful_ || absl::IsNotFound(status);
    job.give_back = std::move(claimed.given_back);
  }
  usable = usable && !draining_;
  std::vector<int32_t> unusable;
  for (size_t i = 0; i < claimed.shards.size(); ++i) {
    if (usable) {
      AddShard(id, job, claimed, i);
    } else {
      unusable.push_back(claimed.shards[i].shard.number);
    }
  }
  if (!transaction.ok()) {
    // They may be ours all the same.
    job.give_back.insert(job.give_back.end(), unusable.begin(), unusable.end());
  } else if (!unusable.empty()) {
    Unclaim(job.record.id, unusable);
  }
  MaybeClaim(id, job);
  MaybeRest(id, job);
}

void DurableJobs::AddShard(JobId id, Job& job, ClaimedShards& claimed, size_t position) {
  ClaimedShards::WithPrompts& with = claimed.shards[position];
  const ClaimedShard& shard = with.shard;
  Shard& ours = job.shards[shard.number];
  ours = {.first = shard.first,
          .first_prompt = with.first_prompt,
          .prompts = std::move(with.prompts),
          .ended = std::vector<bool>(shard.count)};
  for (const int32_t index : shard.ended) ours.ended[index - shard.first] = true;
  environment_.scheduler->AddImages(id, shard.first, shard.count, shard.ended, environment_.clock->Now());
}

void DurableJobs::Unclaim(const std::string& id, const std::vector<int32_t>& shards) {
  environment_.store->Post([id, shards](JobStore& store, Spool&) { store.Unclaim(id, shards).IgnoreError(); },
                           [this, id, shards](const absl::Status& status) {
                             if (status.ok()) return;
                             environment_.enter([&](Outbox&) {
                               const auto found = by_id_.find(id);
                               if (found == by_id_.end()) return;
                               std::vector<int32_t>& give_back = jobs_.find(found->second)->second.give_back;
                               give_back.insert(give_back.end(), shards.begin(), shards.end());
                             });
                           });
}

void DurableJobs::UnclaimAll() {
  for (auto& [id, job] : jobs_) {
    if (job.shards.empty()) continue;
    std::vector<int32_t> shards;
    for (const auto& [number, shard] : job.shards) shards.push_back(number);
    Unclaim(job.record.id, shards);
  }
}

void DurableJobs::DropShard(JobId id, Job& job, int32_t number) {
  const auto shard = job.shards.find(number);
  if (shard == job.shards.end()) return;
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

void DurableJobs::Deleted(const JobRecord& record, Outbox& outbox) {
  // It has ended, though perhaps nobody told us.
  Ended(record, outbox);
  CountBytes(tenants_[record.spec->tenant], -record.bytes_retained);
  ForgetIfUnused(record.spec->tenant);
  EndFollowersOf(record.id, outbox);
  if (RoomChanged()) UpdatePauses();
}

void DurableJobs::EndFollowersOf(const std::string& id, Outbox& outbox) {
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
  WakeJobs(now);
  // A copy, because those that rest make room for others.
  const std::vector<JobId> open(open_.begin(), open_.end());
  for (const JobId id : open) {
    Job& job = jobs_.find(id)->second;
    MaybeClaim(id, job);
    MaybeRest(id, job);
  }
  ExpireJobs(now);
  // Also when draining: the others must know that this coordinator lives.
  Poll(now);
  if (!draining_) DeleteDue(now);
}

void DurableJobs::ExpireJobs(absl::Time now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const auto job = jobs_.find(deadlines_.begin()->second);
    deadlines_.erase(deadlines_.begin());
    if (job == jobs_.end()) continue;
    const std::string id = job->second.record.id;
    const auto ended = std::make_shared<absl::StatusOr<JobRecord>>(absl::UnknownError("not run"));
    environment_.store->Post(
        [ended, id, now](JobStore& store, Spool&) { *ended = store.End(id, JobState::kExpired, now); },
        [this, ended, id, now](const absl::Status& status) {
          environment_.enter([&](Outbox& outbox) {
            if (status.ok() && ended->ok()) {
              Ended(**ended, outbox);
            } else if (status.ok() && absl::IsNotFound(ended->status())) {
              Gone(id, outbox);
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
            Deleted(record, outbox);
          }
        });
      });
}

// ---------------------------------------------------------------------------------------------------------------------
// Other coordinators on the same store

// What is of interest here, at one moment.
struct DurableJobs::StoreView {
  std::vector<JobRecord> running;
  std::vector<JobRecord> ended;   // Of those that were known here.
  std::vector<std::string> gone;  // The same.
  std::map<std::string, TenantUsage> usage;
};

void DurableJobs::Poll(absl::Time now) {
  const int64_t failed = environment_.store->failed();
  if (polling_ || now < poll_again_) return;
  if (!environment_.shared && !doubtful_ && failed == failed_seen_) return;
  polling_ = true;
  doubtful_ = false;
  poll_again_ = now + options_.poll_interval;
  std::set<std::string> known;
  for (const auto& [id, follower] : followers_) known.insert(id);
  for (const auto& [id, job] : by_id_) known.insert(id);
  const auto view = std::make_shared<absl::StatusOr<StoreView>>(absl::UnknownError("not run"));
  const auto answering = std::make_shared<AnsweringStore>(answering_);
  environment_.store->Post(
      [view, known, answering, before = answering_, clock = environment_.clock, patience = options_.take_over_patience](
          JobStore& store, Spool&) {
        // A store that was away for this coordinator was so for the others too, who need time to show themselves.
        const absl::Time now = clock->Now();
        *answering = {.since = now - before.last > patience / 2 ? now : before.since, .last = now};
        *view = LookAtStore(store, known, now - answering->since >= patience);
      },
      [this, view, answering, failed](const absl::Status& status) {
        environment_.enter([&](Outbox& outbox) {
          polling_ = false;
          if (!status.ok()) *view = status;
          if (view->ok()) {
            failed_seen_ = failed;
            answering_ = *answering;
          }
          Polled(*view, outbox);
        });
      });
}

absl::StatusOr<DurableJobs::StoreView> DurableJobs::LookAtStore(JobStore& store, const std::set<std::string>& known,
                                                                bool take_over) {
  TURBOFLEET_RETURN_IF_ERROR(store.Renew());
  if (store.shared() && take_over) TURBOFLEET_RETURN_IF_ERROR(store.TakeOverFromDead().status());
  StoreView view;
  std::set<std::string> running;
  std::string after;
  while (true) {
    TURBOFLEET_ASSIGN_OR_RETURN(std::vector<JobRecord> page, store.ListRunning(after, kPageJobs));
    for (JobRecord& record : page) {
      after = record.id;
      running.insert(record.id);
      view.running.push_back(std::move(record));
    }
    if (static_cast<int32_t>(page.size()) < kPageJobs) break;
  }
  for (const std::string& id : known) {
    if (running.contains(id)) continue;
    absl::StatusOr<JobRecord> record = store.Find(id);
    if (record.ok()) {
      view.ended.push_back(*std::move(record));
    } else if (absl::IsNotFound(record.status())) {
      view.gone.push_back(id);
    } else {
      return record.status();
    }
  }
  TURBOFLEET_ASSIGN_OR_RETURN(view.usage, store.Usage());
  return view;
}

void DurableJobs::GiveUpUnserved() {
  // What was made goes into the store first.
  if (!environment_.shared || committing_ || !uncommitted_.empty()) return;
  const absl::Time now = environment_.clock->Now();
  for (auto& [id, job] : jobs_) {
    if ((job.shards.empty() && job.give_back.empty()) || job.claiming) continue;
    if (environment_.scheduler->Leased(id) > 0) continue;
    if (environment_.is_served(*job.record.spec)) job.served = now;
    if (now - job.served < kUnservedTimeout) continue;
    std::vector<int32_t> shards = std::exchange(job.give_back, {});
    while (!job.shards.empty()) {
      shards.push_back(job.shards.begin()->first);
      DropShard(id, job, shards.back());
    }
    Unclaim(job.record.id, shards);
  }
}

void DurableJobs::Polled(const absl::StatusOr<StoreView>& view, Outbox& outbox) {
  if (absl::IsAborted(view.status())) {
    environment_.on_fenced();
    return;
  }
  if (!view.ok()) {
    doubtful_ = true;
    return;
  }
  for (const JobRecord& record : view->running) {
    const auto found = by_id_.find(record.id);
    if (found == by_id_.end()) {
      Start(record, outbox);
    } else if (record.LastSequence() >= jobs_.find(found->second)->second.record.LastSequence()) {
      Update(found->second, record, outbox);
    }
  }
  for (const JobRecord& record : view->ended) Ended(record, outbox);
  for (const std::string& id : view->gone) Gone(id, outbox);
  SetUsage(view->usage);
  GiveUpUnserved();
}

}  // namespace turbofleet
