// Jobs, and the queues in which they stand.
#include "coordinator/scheduler/scheduler.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

namespace turbofleet {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

size_t Number(JobClass job_class) { return static_cast<size_t>(job_class); }

}  // namespace

Scheduler::Scheduler(const Options& options) : options_(options) {
  assert(options.attempts_max >= 1);
  assert(options.bulk_share_min >= 0.0 && options.bulk_share_min < 1.0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Jobs

std::optional<Refusal> Scheduler::Refuse(const JobPlacement& placement, absl::Time now) const {
  if (placement.image_count == 0) return std::nullopt;
  if (call_jobs_ >= options_.jobs_max) return LimitReached{"jobs_max", options_.jobs_max};
  if (call_images_queued_ + placement.image_count > options_.images_queued_max) {
    return LimitReached{"images_queued_max", options_.images_queued_max};
  }
  if (call_prompt_bytes_ + placement.prompt_bytes > options_.prompt_bytes_max) {
    return LimitReached{"prompt_bytes_max", options_.prompt_bytes_max};
  }
  if (placement.deadline == absl::InfiniteFuture()) return std::nullopt;
  const std::optional<absl::Duration> predicted = PredictEnd(placement);
  if (predicted.has_value() && now + *predicted > placement.deadline) return DeadlineUnreachable{*predicted};
  return std::nullopt;
}

std::optional<Refusal> Scheduler::Submit(const JobPlacement& placement, absl::Time now) {
  assert(placement.image_count >= 0 && (jobs_.empty() || jobs_.rbegin()->first < placement.id));
  if (std::optional<Refusal> refusal = Refuse(placement, now); refusal.has_value()) return refusal;

  Pool& pool = PoolOf(placement.model_digest);
  Job& job = jobs_[placement.id];
  job.id = placement.id;
  job.job_class = placement.job_class;
  job.lane = &pool.lanes[placement.shape];
  job.lane->pool = &pool;
  job.lane->shape = placement.shape;
  ++job.lane->jobs;
  job.tenant = &TenantOf(pool, placement);
  job.prompt_bytes = placement.prompt_bytes;
  prompt_bytes_ += job.prompt_bytes;
  job.deadline = placement.deadline;
  if (job.deadline != absl::InfiniteFuture()) deadlines_.emplace(job.deadline, job.id);
  job.open_ended = placement.image_count == 0;
  if (job.open_ended) return std::nullopt;
  ++call_jobs_;
  call_prompt_bytes_ += job.prompt_bytes;
  job.images_left = placement.image_count;
  job.fresh.Add(0, placement.image_count, now);
  NoteInteractive(job, now);
  Refile(job);
  return std::nullopt;
}

void Scheduler::AddImages(JobId id, int32_t first, int32_t count, absl::Span<const int32_t> skip, absl::Time now) {
  assert(first >= 0 && count > 0 && first <= std::numeric_limits<int32_t>::max() - count);
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Job& job = found->second;
  assert(job.open_ended);
  const int32_t end = first + count;
  for (const int32_t index : skip) {
    if (index < first || index >= end) continue;
    if (index > first) job.fresh.Add(first, index - first, now);
    first = index + 1;
  }
  if (first < end) job.fresh.Add(first, end - first, now);
  NoteInteractive(job, now);
  Refile(job);
}

void Scheduler::NoteInteractive(const Job& job, absl::Time now) {
  if (job.job_class == JobClass::kInteractive) job.lane->pool->interactive_until = now + options_.interactive_memory;
}

Effects Scheduler::DropImages(JobId id, int32_t first, int32_t count) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return {};
  assert(found->second.open_ended);
  return Abandon(found->second, first, first + count);
}

Effects Scheduler::Cancel(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return {};
  Effects effects = Abandon(found->second, 0, std::numeric_limits<int32_t>::max());
  ForgetJob(found->second);
  return effects;
}

Effects Scheduler::Abandon(Job& job, int32_t first, int32_t end) {
  job.fresh.Remove(first, end - first);
  job.returned.erase(job.returned.lower_bound(first), job.returned.lower_bound(end));
  job.tried.erase(job.tried.lower_bound(first), job.tried.lower_bound(end));
  Effects effects;
  const std::map<LeaseId, int32_t> leases = job.leases;
  for (const auto& [id, count] : leases) {
    const auto lease = leases_.find(id);
    const auto& slots = lease->second.slots;
    Abandonment abandonment = {.session = lease->second.session->id, .lease = id, .slots = {}};
    for (size_t slot = 0; slot < slots.size(); ++slot) {
      const bool wanted = slots[slot].image.index < first || slots[slot].image.index >= end;
      if (slots[slot].open && slots[slot].job == &job && !wanted) {
        abandonment.slots.push_back(static_cast<int32_t>(slot));
      }
    }
    if (abandonment.slots.empty()) continue;
    const std::vector<int32_t> dropped = abandonment.slots;
    if (static_cast<int32_t>(dropped.size()) == lease->second.open_count) abandonment.slots.clear();
    effects.abandoned.push_back(std::move(abandonment));
    // With the last slot the lease is gone.
    for (const int32_t slot : dropped) CloseSlot(lease, slot);
  }
  Refile(job);
  return effects;
}

void Scheduler::SetPaused(JobId id, bool paused) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.paused == paused) return;
  found->second.paused = paused;
  Refile(found->second);
}

int64_t Scheduler::Queued(JobId id) const {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? 0 : found->second.Queued();
}

int64_t Scheduler::Leased(JobId id) const {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? 0 : found->second.images_leased;
}

void Scheduler::ForgetJob(Job& job) {
  const JobId id = job.id;
  assert(job.leases.empty());
  job.fresh = {};
  job.returned.clear();
  Refile(job);
  deadlines_.erase({job.deadline, id});
  prompt_bytes_ -= job.prompt_bytes;
  if (!job.open_ended) {
    --call_jobs_;
    call_prompt_bytes_ -= job.prompt_bytes;
  }
  Pool& pool = *job.lane->pool;
  if (--job.lane->jobs == 0) pool.lanes.erase(job.lane->shape);
  ForgetTenantIfUnused(job, pool);
  jobs_.erase(id);
  ForgetPoolIfUnused(pool);
}

// ---------------------------------------------------------------------------------------------------------------------
// Pools and tenants

Scheduler::Pool& Scheduler::PoolOf(const std::string& model_digest) {
  Pool& pool = pools_[model_digest];
  pool.model_digest = model_digest;
  return pool;
}

void Scheduler::ForgetPoolIfUnused(Pool& pool) {
  if (pool.lanes.empty() && pool.groups.empty()) pools_.erase(std::string(pool.model_digest));
}

Scheduler::Tenant& Scheduler::TenantOf(Pool& pool, const JobPlacement& placement) {
  assert(placement.tenant_weight >= 1);
  books::ClassShare& share = pool.classes[Number(placement.job_class)];
  const auto [found, is_new] = share.tenants.try_emplace(placement.tenant);
  Tenant& tenant = found->second;
  if (is_new) {
    tenant.name = placement.tenant;
    tenant.number = ++last_tenant_;
  }
  share.debtors.erase({tenant.virtual_time, tenant.name});
  tenant.weight = placement.tenant_weight;
  ++tenant.jobs;
  return tenant;
}

void Scheduler::ForgetTenantIfUnused(Job& job, Pool& pool) {
  Tenant& tenant = *job.tenant;
  books::ClassShare& share = pool.classes[Number(job.job_class)];
  // What a tenant without jobs owes is remembered until the others have had as much.
  if (--tenant.jobs == 0) share.debtors.emplace(tenant.virtual_time, tenant.name);
  while (!share.debtors.empty() && share.debtors.begin()->first <= share.clock.now()) {
    share.tenants.erase(share.debtors.begin()->second);
    share.debtors.erase(share.debtors.begin());
  }
}

void Scheduler::MoveTenant(Tenant& tenant, JobClass job_class, int64_t virtual_time) {
  for (Lane* const lane : tenant.lanes) {
    books::TenantQueues& queues = lane->queues[Number(job_class)];
    auto node = queues.extract({tenant.virtual_time, tenant.number});
    node.key().first = virtual_time;
    queues.insert(std::move(node));
  }
  tenant.virtual_time = virtual_time;
}

// ---------------------------------------------------------------------------------------------------------------------
// Shares

double Scheduler::WeightOf(const Pool& pool, JobClass job_class) const {
  const double weight = options_.class_weights[Number(job_class)];
  if (job_class != JobClass::kBulk) return weight;
  double others = 0.0;
  for (const JobClass other : {JobClass::kInteractive, JobClass::kNormal}) {
    if (pool.classes[Number(other)].images_queued > 0) others += options_.class_weights[Number(other)];
  }
  return std::max(weight, others * options_.bulk_share_min / (1.0 - options_.bulk_share_min));
}

void Scheduler::ChargeShares(const Job& job, int64_t cost) {
  Pool& pool = *job.lane->pool;
  books::ClassShare& share = pool.classes[Number(job.job_class)];
  share.virtual_time = pool.clock.Serve(share.virtual_time, cost, WeightOf(pool, job.job_class));
  MoveTenant(*job.tenant, job.job_class, share.clock.Serve(job.tenant->virtual_time, cost, job.tenant->weight));
}

void Scheduler::Correct(Job& job, int64_t difference) {
  if (difference == 0) return;
  Pool& pool = *job.lane->pool;
  Tenant& tenant = *job.tenant;
  pool.classes[Number(job.job_class)].virtual_time += FairClock::Scaled(difference, WeightOf(pool, job.job_class));
  MoveTenant(tenant, job.job_class, tenant.virtual_time + FairClock::Scaled(difference, tenant.weight));
  job.virtual_time += difference;
  Refile(job);
}

// ---------------------------------------------------------------------------------------------------------------------
// Queues

void Scheduler::Recount(Job& job, bool active) {
  const int64_t queued = job.Queued();
  const int64_t change = queued - job.counted;
  job.counted = queued;
  images_queued_ += change;
  if (!job.open_ended) call_images_queued_ += change;
  class_images_queued_[Number(job.job_class)] += change;

  books::ClassShare& share = job.lane->pool->classes[Number(job.job_class)];
  const int64_t in_lane = active ? queued : 0;
  if (share.images_queued == 0 && in_lane > 0) {
    share.virtual_time = job.lane->pool->clock.Level(share.virtual_time, kNever);
  }
  share.images_queued += in_lane - job.lane_counted;
  job.lane->images_queued[Number(job.job_class)] += in_lane - job.lane_counted;
  job.lane_counted = in_lane;

  std::optional<absl::Time> oldest;
  if (!job.fresh.empty()) oldest = job.fresh.first().since;
  if (!job.returned.empty()) {
    const absl::Time since = job.tried.find(*job.returned.begin())->second.queued_at;
    oldest = oldest.has_value() ? std::min(*oldest, since) : since;
  }
  if (oldest == job.oldest) return;
  auto& ages = ages_[Number(job.job_class)];
  if (job.oldest.has_value()) ages.erase({*job.oldest, job.id});
  if (oldest.has_value()) ages.emplace(*oldest, job.id);
  job.oldest = oldest;
}

void Scheduler::Refile(Job& job) {
  const bool active = !job.paused && !job.expired;
  Recount(job, active);
  const bool wants_turn = active && !job.fresh.empty();
  const bool wants_return = active && !job.returned.empty();
  const bool stood = std::exchange(job.stands, wants_turn || wants_return);
  if (!stood && !job.stands) return;

  Tenant& tenant = *job.tenant;
  books::TenantQueues& queues = job.lane->queues[Number(job.job_class)];
  if (tenant.lanes.empty()) {
    // Those it competes with may lag behind the rest, if few workers serve their shape.
    const FairClock& clock = job.lane->pool->classes[Number(job.job_class)].clock;
    tenant.virtual_time = clock.Level(tenant.virtual_time, queues.empty() ? kNever : queues.begin()->first.first);
  }
  const auto [found, is_new] = queues.try_emplace({tenant.virtual_time, tenant.number});
  books::TenantQueue& queue = found->second;
  if (is_new) {
    queue.tenant = &tenant;
    tenant.lanes.push_back(job.lane);
  }
  if (!stood) {
    const int64_t laggard = queue.turns.empty() ? kNever : queue.turns.begin()->first.first;
    job.virtual_time = tenant.clock.Level(job.virtual_time, laggard);
  }
  if (job.turn.has_value() && (!wants_turn || *job.turn != job.virtual_time)) {
    queue.turns.erase({*job.turn, job.id});
    job.turn.reset();
  }
  if (wants_turn && !job.turn.has_value()) {
    queue.turns.emplace(std::pair(job.virtual_time, job.id), &job);
    job.turn = job.virtual_time;
  }
  if (wants_return) queue.returns.emplace(job.id, &job);
  if (!wants_return && job.in_returns) queue.returns.erase(job.id);
  job.in_returns = wants_return;
  if (!queue.turns.empty() || !queue.returns.empty()) return;
  queues.erase(found);
  std::erase(tenant.lanes, job.lane);
}

// ---------------------------------------------------------------------------------------------------------------------
// Load

SchedulerLoad Scheduler::Load(absl::Time now) const {
  SchedulerLoad load = {.jobs = static_cast<int64_t>(jobs_.size()),
                        .images_queued = images_queued_,
                        .images_leased = images_leased_,
                        .prompt_bytes = prompt_bytes_,
                        .oldest_queued_age = absl::ZeroDuration()};
  for (size_t i = 0; i < kJobClasses; ++i) {
    load.classes[i].images_queued = class_images_queued_[i];
    if (!ages_[i].empty()) load.classes[i].oldest_queued_age = now - ages_[i].begin()->first;
    load.oldest_queued_age = std::max(load.oldest_queued_age, load.classes[i].oldest_queued_age);
  }
  return load;
}

std::optional<SessionLoad> Scheduler::LoadOf(SessionId id) const {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return std::nullopt;
  const Session& session = found->second;
  return SessionLoad{.images_leased = session.images_leased,
                     .draining = session.draining,
                     .stuck = session.stuck,
                     .quarantined = session.quarantined_until.has_value(),
                     .speed = static_cast<double>(session.speed.units()) / WorkerSpeed::kUnit};
}

}  // namespace turbofleet
