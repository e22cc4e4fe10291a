// Decisions: which worker gets what next.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <tuple>

#include "coordinator/scheduler/scheduler.h"

namespace turbofleet {
namespace {

constexpr double kAlmost = 1e-9;  // What rounding may have taken.
// A share that is only this much above a whole number of images is rounded down: speeds are not known any better.
constexpr double kShareSlack = 0.2;
// How many returned images are looked at to find one that a worker may have.
constexpr int kReturnedSeenMax = 64;

struct Speeds {
  double sum = 0.0;
  double fastest = 0.0;
};

// Of the workers that share in rendering a shape.
Speeds SpeedsFor(const books::Pool& pool, const BatchShape& shape) {
  Speeds speeds;
  for (const auto& [key, group] : pool.groups) {
    if (group.speeds.empty() || !group.Serves(shape)) continue;
    speeds.sum += static_cast<double>(group.speed_sum) / WorkerSpeed::kUnit;
    speeds.fastest = std::max(speeds.fastest, static_cast<double>(*group.speeds.rbegin()) / WorkerSpeed::kUnit);
  }
  return speeds;
}

// How long the workers of a pool are predicted to need for all that there is, in nanoseconds.
double PoolTime(const books::Pool& pool) {
  double work = 0.0;
  double speed = 0.0;
  for (const auto& [shape, lane] : pool.lanes) {
    work += static_cast<double>((lane.Queued() + lane.images_leased) * pool.costs.Predict(shape));
  }
  for (const auto& [key, group] : pool.groups) speed += static_cast<double>(group.speed_sum) / WorkerSpeed::kUnit;
  return speed > 0.0 ? work / speed : 0.0;
}

bool AnyQueuedFor(const books::WorkerGroup& group) {
  for (const auto& [shape, lane] : group.pool->lanes) {
    if (lane.Queued() > 0 && group.Serves(shape)) return true;
  }
  return false;
}

// The classes, the one that is furthest behind its share first.
std::array<JobClass, kJobClasses> ByNeed(const books::Pool& pool) {
  std::array<JobClass, kJobClasses> classes = {JobClass::kInteractive, JobClass::kNormal, JobClass::kBulk};
  std::stable_sort(classes.begin(), classes.end(), [&](JobClass a, JobClass b) {
    return pool.classes[static_cast<size_t>(a)].virtual_time < pool.classes[static_cast<size_t>(b)].virtual_time;
  });
  return classes;
}

}  // namespace

// What a session would be given next.
struct Scheduler::Choice {
  Lane* lane = nullptr;
  JobClass job_class = JobClass::kNormal;
  size_t images_max = 0;
  const Tenant* tenant = nullptr;
  bool is_fresh = true;
  int64_t job_time = 0;  // The job's virtual time, if it is fresh.
  JobId job{};

  // Lowest first, within a class.
  auto Turn() const { return std::tuple(tenant->virtual_time, tenant->number, is_fresh, job_time, job); }
};

std::optional<absl::Duration> Scheduler::PredictEnd(const JobPlacement& placement) const {
  const auto found = pools_.find(placement.model_digest);
  if (found == pools_.end() || !found->second.costs.measured()) return std::nullopt;
  const Pool& pool = found->second;
  const Speeds speeds = SpeedsFor(pool, placement.shape);
  if (speeds.sum == 0.0) return std::nullopt;
  const auto own_class = static_cast<size_t>(placement.job_class);
  double leased = 0.0;
  double queued = 0.0;
  for (const auto& [shape, lane] : pool.lanes) {
    const auto cost = static_cast<double>(pool.costs.Predict(shape));
    leased += static_cast<double>(lane.images_leased) * cost;
    queued += static_cast<double>(lane.images_queued[own_class]) * cost;
  }
  double weights = 0.0;
  for (size_t i = 0; i < kJobClasses; ++i) {
    if (i == own_class || pool.classes[i].images_queued > 0) weights += WeightOf(pool, static_cast<JobClass>(i));
  }
  const double share = WeightOf(pool, placement.job_class) / weights;
  const auto cost = static_cast<double>(pool.costs.Predict(placement.shape));
  const double spread = (leased + (queued + placement.image_count * cost) / share) / speeds.sum;
  return absl::Nanoseconds(std::max(spread, leased / speeds.sum + cost / speeds.fastest));
}

bool Scheduler::Avoids(const books::TriedImage& image, const Session& session, const Lane& lane) const {
  if (image.avoid != session.capacity.worker) return false;
  int64_t serving = 0;
  for (const auto& [key, group] : lane.pool->groups) {
    if (group.Serves(lane.shape)) serving += group.serving;
  }
  return serving > 1;
}

const Scheduler::Job* Scheduler::FirstReturned(const books::TenantQueue& queue, const Session& session,
                                               const Lane& lane) const {
  int seen = 0;
  for (const auto& [id, job] : queue.returns) {
    for (const int32_t index : job->returned) {
      if (!Avoids(job->tried.find(index)->second, session, lane)) return job;
      if (++seen == kReturnedSeenMax) return nullptr;
    }
  }
  return nullptr;
}

size_t Scheduler::BatchSize(const Session& session, const Lane& lane, bool returned) const {
  const Pool& pool = *lane.pool;
  const Speeds speeds = SpeedsFor(pool, lane.shape);
  const double speed = static_cast<double>(session.speed.units()) / WorkerSpeed::kUnit;
  const auto outstanding = static_cast<double>(lane.Queued() + lane.images_leased);
  // Its part of all that is not finished, less what it has of it: the last images end on all workers at about the same
  // time. It is rounded up only as far as the fastest worker would not be done sooner with what that adds.
  const double share = outstanding * speed / speeds.sum;
  const double rounded = std::min(std::ceil(share - kShareSlack), std::floor(share + speed / speeds.fastest + kAlmost));
  const auto held = lane.images_leased_by.find(session.id);
  const double more = rounded - (held == lane.images_leased_by.end() ? 0 : held->second);
  if (more >= 1.0) return static_cast<size_t>(std::min<double>(more, session.capacity.batch_images_max));
  if (returned) return 1;
  // One image more, unless a faster worker that has no time for it now will have it done sooner.
  const auto cost = static_cast<double>(pool.costs.Predict(lane.shape));
  const double finish = static_cast<double>(session.busy) + cost / speed;
  const double others = std::max(outstanding * cost / speeds.sum, PoolTime(pool)) + cost / speeds.fastest;
  return finish <= others * (1.0 + kAlmost) ? 1 : 0;
}

std::optional<Scheduler::Choice> Scheduler::FirstIn(Lane& lane, JobClass job_class, const Session& session) const {
  for (const auto& [key, queue] : lane.queues[static_cast<size_t>(job_class)]) {
    const Job* const returned = FirstReturned(queue, session, lane);
    if (returned == nullptr && queue.turns.empty()) continue;
    Choice choice;
    choice.lane = &lane;
    choice.job_class = job_class;
    choice.tenant = queue.tenant;
    choice.is_fresh = returned == nullptr;
    if (choice.is_fresh) std::tie(choice.job_time, choice.job) = queue.turns.begin()->first;
    if (!choice.is_fresh) choice.job = returned->id;
    return choice;
  }
  return std::nullopt;
}

std::optional<Scheduler::Choice> Scheduler::Choose(const Session& session) const {
  Pool& pool = *session.group->pool;
  for (const JobClass job_class : ByNeed(pool)) {
    if (pool.classes[static_cast<size_t>(job_class)].images_queued == 0) continue;
    std::optional<Choice> best;
    std::optional<Choice> same;  // As what the session was given last.
    for (auto& [shape, lane] : pool.lanes) {
      if (!session.group->Serves(shape)) continue;
      std::optional<Choice> choice = FirstIn(lane, job_class, session);
      const bool is_same = session.last_shape == shape;
      if (!choice.has_value() || (!is_same && best.has_value() && best->Turn() < choice->Turn())) continue;
      choice->images_max = BatchSize(session, lane, !choice->is_fresh);
      if (choice->images_max == 0) continue;
      if (is_same) same = choice;
      if (!best.has_value() || choice->Turn() < best->Turn()) best = choice;
    }
    if (!best.has_value()) continue;
    if (same.has_value() && best->is_fresh && IsLevel(*same, *best, session)) return same;
    return best;
  }
  return std::nullopt;
}

bool Scheduler::IsLevel(const Choice& choice, const Choice& best, const Session& session) const {
  // Among tenants nobody is passed over for the sake of a shape.
  if (choice.tenant != best.tenant) return false;
  const int64_t cost = session.speed.Nanoseconds(choice.lane->pool->costs.Predict(choice.lane->shape));
  return choice.job_time - best.job_time <= static_cast<int64_t>(choice.images_max) * cost;
}

bool Scheduler::TakeReturned(const books::TenantQueue& queue, Batch* batch) {
  int seen = 0;
  for (const auto& [id, job] : queue.returns) {
    for (auto next = job->returned.begin(); next != job->returned.end() && !batch->Full();) {
      const int32_t index = *next;
      const books::TriedImage& tried = job->tried.find(index)->second;
      if (Avoids(tried, *batch->session, *batch->lane)) {
        if (++seen == kReturnedSeenMax) return false;
        ++next;
        continue;
      }
      const bool alone = tried.batch_max == 1 || (tried.attempts > 0 && tried.attempts == options_.attempts_max - 1);
      if (!batch->slots.empty() && (alone || batch->suspects != (tried.crashes > 0))) return true;
      batch->suspects = tried.crashes > 0;
      batch->images_max = std::min(batch->images_max, static_cast<size_t>(tried.batch_max));
      if (batch->Full()) return true;
      next = job->returned.erase(next);
      batch->slots.push_back({.job = job,
                              .image = {id, index},
                              .attempt = tried.attempts + 1,
                              .cost = batch->cost,
                              .charged = batch->cost,
                              .queued_at = tried.queued_at});
      job->virtual_time = queue.tenant->clock.Serve(job->virtual_time, batch->cost, 1.0);
      if (alone) return true;
    }
  }
  return batch->suspects;
}

void Scheduler::TakeFresh(books::TenantQueue& queue, Batch* batch) {
  while (!batch->Full() && !queue.turns.empty()) {
    Job& job = *queue.turns.begin()->second;
    queue.turns.erase(queue.turns.begin());
    job.turn.reset();
    const ImageRanges::First first = job.fresh.first();
    int64_t run = std::min<int64_t>(first.count, static_cast<int64_t>(batch->images_max - batch->slots.size()));
    if (!queue.turns.empty()) {
      // Until it is the next one's turn.
      const auto& [next_time, next_id] = queue.turns.begin()->first;
      const int64_t gap = next_time - job.virtual_time;
      run = std::min(run, (gap + batch->cost - (next_id < job.id ? 1 : 0)) / batch->cost);
      run = std::max<int64_t>(run, 1);
    }
    for (int32_t i = 0; i < run; ++i) {
      batch->slots.push_back({.job = &job,
                              .image = {job.id, first.index + i},
                              .cost = batch->cost,
                              .charged = batch->cost,
                              .queued_at = first.since});
    }
    job.fresh.PopFront(static_cast<int32_t>(run));
    FairClock& clock = queue.tenant->clock;
    if (run > 1) job.virtual_time = clock.Serve(job.virtual_time, (run - 1) * batch->cost, 1.0);
    job.virtual_time = clock.Serve(job.virtual_time, batch->cost, 1.0);
    if (job.fresh.empty()) continue;
    queue.turns.emplace(std::pair(job.virtual_time, job.id), &job);
    job.turn = job.virtual_time;
  }
}

std::vector<Scheduler::Slot> Scheduler::CutBatch(const Session& session, const Choice& choice, absl::Time now) {
  Pool& pool = *choice.lane->pool;
  Batch batch;
  batch.session = &session;
  batch.lane = choice.lane;
  batch.images_max = choice.images_max;
  batch.cost = session.speed.Nanoseconds(pool.costs.Predict(choice.lane->shape));
  std::array<JobClass, kJobClasses> classes = ByNeed(pool);
  std::stable_partition(classes.begin(), classes.end(), [&](JobClass c) { return c == choice.job_class; });
  // While somebody may come who waits, no batch is long but for those who wait themselves.
  const bool is_short = pool.interactive_until > now || pool.classes[0].images_queued > 0;
  const auto short_max =
      static_cast<size_t>(std::max<int64_t>(1, absl::ToInt64Nanoseconds(options_.short_batch_time) / batch.cost));
  bool whole = false;
  for (const JobClass job_class : classes) {
    if (is_short && job_class != JobClass::kInteractive) batch.images_max = std::min(batch.images_max, short_max);
    for (auto& [key, queue] : choice.lane->queues[static_cast<size_t>(job_class)]) {
      if (whole || batch.Full()) break;
      whole = TakeReturned(queue, &batch);
      if (!whole) TakeFresh(queue, &batch);
    }
  }
  // Queues are brought up to date at the end, because that moves what was walked through above.
  for (size_t slot = 0; slot < batch.slots.size();) {
    Job& job = *batch.slots[slot].job;
    size_t end = slot;
    while (end < batch.slots.size() && batch.slots[end].job == &job) ++end;
    NoteInteractive(job, now);
    Refile(job);
    ChargeShares(job, static_cast<int64_t>(end - slot) * batch.cost);
    slot = end;
  }
  return std::move(batch.slots);
}

std::optional<Lease> Scheduler::AssignTo(Session& session, absl::Time now) {
  const std::optional<Choice> choice = Choose(session);
  if (!choice.has_value()) return std::nullopt;
  std::vector<Slot> slots = CutBatch(session, *choice, now);
  session.last_shape = choice->lane->shape;
  ++session.batches_sent;
  return MakeLease(session, std::move(slots), now);
}

void Scheduler::AssignPool(Pool& pool, absl::Time now, std::vector<Lease>* leases) {
  std::vector<std::pair<books::ReadyKey, books::WorkerGroup*>> groups;
  for (auto& [key, group] : pool.groups) {
    if (!group.ready.empty()) groups.emplace_back(group.ready.begin()->first, &group);
  }
  while (!groups.empty()) {
    // A session that gets a lease comes up again further on, behind those that have less; one that gets nothing now
    // would get nothing later either.
    const auto first = std::min_element(groups.begin(), groups.end());
    books::WorkerGroup& group = *first->second;
    const books::ReadyKey key = first->first;
    std::optional<Lease> lease = AssignTo(*group.ready.find(key)->second, now);
    const auto next = group.ready.upper_bound(key);
    if (next == group.ready.end() || (!lease.has_value() && !AnyQueuedFor(group))) {
      groups.erase(first);
    } else {
      first->first = next->first;
    }
    if (lease.has_value()) leases->push_back(*std::move(lease));
  }
}

std::vector<Lease> Scheduler::Assign(absl::Time now) {
  StopExpiredJobs(now);
  std::vector<Lease> leases;
  for (auto& [model, pool] : pools_) {
    const bool any = std::any_of(pool.classes.begin(), pool.classes.end(),
                                 [](const books::ClassShare& share) { return share.images_queued > 0; });
    if (any) AssignPool(pool, now, &leases);
  }
  Hedge(now, &leases);
  return leases;
}

}  // namespace turbofleet
