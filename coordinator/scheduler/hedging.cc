// Hedges: late images are given to a second worker that has nothing else to do.
#include <algorithm>

#include "coordinator/scheduler/scheduler.h"

namespace turbofleet {
namespace {

// How many late leases are looked at in one decision.
constexpr int kLateSeenMax = 256;

}  // namespace

bool Scheduler::MayHedge(Pool& pool, int64_t cost, absl::Time now) const {
  while (!pool.hedges.empty() && pool.hedges.front().first + options_.hedge_window <= now) {
    pool.hedged -= pool.hedges.front().second;
    pool.hedges.pop_front();
  }
  int64_t serving = 0;
  for (const auto& [key, group] : pool.groups) serving += group.serving;
  const auto window = static_cast<double>(absl::ToInt64Nanoseconds(options_.hedge_window));
  return static_cast<double>(pool.hedged + cost) <= options_.hedge_share_max * static_cast<double>(serving) * window;
}

Scheduler::Session* Scheduler::FindIdle(const Lane& lane, const Session& other) const {
  for (auto& [key, group] : lane.pool->groups) {
    if (!group.Serves(lane.shape)) continue;
    for (const auto& [ready, session] : group.ready) {
      if (!session->leases.empty()) break;
      if (session != &other) return session;
    }
  }
  return nullptr;
}

int64_t Scheduler::BusyNow(const Session& session) const {
  int64_t busy = 0;
  for (const LeaseId id : session.leases) {
    for (const Slot& slot : leases_.find(id)->second.slots) {
      if (slot.open) busy += session.speed.Nanoseconds(slot.job->lane->pool->costs.Predict(slot.job->lane->shape));
    }
  }
  return busy;
}

std::optional<Lease> Scheduler::HedgeLease(HeldLease& late, absl::Time now) {
  Pool& pool = *late.session->group->pool;
  Session* idle = nullptr;
  std::vector<Slot> slots;
  int64_t cost = 0;
  for (const Slot& slot : late.slots) {
    if (!slot.open || (!slots.empty() && slots.front().job->lane != slot.job->lane)) continue;
    const Job& job = *slot.job;
    const bool wanted = job.job_class == JobClass::kInteractive || job.lane->Queued() == 0;
    const auto found = job.tried.find(slot.image.index);
    if (!wanted || job.expired || (found != job.tried.end() && found->second.hedged)) continue;
    if (idle == nullptr) idle = FindIdle(*job.lane, *late.session);
    if (idle == nullptr) return std::nullopt;
    if (static_cast<int32_t>(slots.size()) >= idle->capacity.batch_images_max) break;
    Slot hedge = slot;
    hedge.cost = idle->speed.Nanoseconds(pool.costs.Predict(job.lane->shape));
    hedge.charged = 0;
    if (!MayHedge(pool, cost + hedge.cost, now)) break;
    cost += hedge.cost;
    slots.push_back(hedge);
  }
  if (slots.empty()) return std::nullopt;
  for (const Slot& slot : slots) {
    const auto [tried, is_new] = slot.job->tried.try_emplace(slot.image.index);
    tried->second.hedged = true;
    if (!is_new) continue;
    tried->second.attempts = slot.attempt - 1;
    tried->second.queued_at = slot.queued_at;
    tried->second.leases.push_back(late.id);
  }
  pool.hedges.emplace_back(now, cost);
  pool.hedged += cost;
  ++idle->batches_sent;
  return MakeLease(*idle, std::move(slots), now);
}

void Scheduler::Hedge(absl::Time now, std::vector<Lease>* leases) {
  int seen = 0;
  for (auto next = hedges_.begin(); next != hedges_.end() && next->first <= now && seen < kLateSeenMax; ++seen) {
    HeldLease& late = leases_.find(next->second)->second;
    const auto entry = next++;
    if (!late.session->speed.measured()) continue;
    // What was predicted when it was leased may have been a guess.
    const absl::Time due =
        late.leased_at + std::max(options_.hedge_after_min, 3 * absl::Nanoseconds(BusyNow(*late.session)));
    if (due > now) {
      hedges_.erase(entry);
      late.hedge_at = due;
      hedges_.emplace(due, late.id);
      continue;
    }
    if (std::optional<Lease> lease = HedgeLease(late, now); lease.has_value()) leases->push_back(*std::move(lease));
  }
}

}  // namespace turbofleet
