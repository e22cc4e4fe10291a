// Leases: how images come into them and out again.
#include <algorithm>
#include <cassert>

#include "coordinator/scheduler/scheduler.h"

namespace turbofleet {

Lease Scheduler::MakeLease(Session& session, std::vector<Slot> slots, absl::Time now) {
  last_lease_ = static_cast<LeaseId>(static_cast<uint64_t>(last_lease_) + 1);
  const auto count = static_cast<int32_t>(slots.size());
  Lease lease = {.id = last_lease_, .session = session.id, .shape = slots.front().job->lane->shape, .images = {}};
  HeldLease& held = leases_[last_lease_];
  held.id = last_lease_;
  held.session = &session;
  held.leased_at = now;
  held.open_count = count;
  for (const Slot& slot : slots) {
    Job& job = *slot.job;
    lease.images.push_back(slot.image);
    ++job.leases[last_lease_];
    ++job.images_leased;
    ++job.lane->images_leased;
    ++job.lane->images_leased_by[session.id];
    held.predicted += slot.cost;
    const auto tried = job.tried.find(slot.image.index);
    if (tried != job.tried.end()) tried->second.leases.push_back(last_lease_);
  }
  held.slots = std::move(slots);
  images_leased_ += count;
  if (session.leases.empty()) session.last_progress = now;
  session.leases.insert(last_lease_);
  session.images_leased += count;
  session.busy += held.predicted;
  session.last_lease_sent = last_lease_;
  held.hedge_at = now + std::max(options_.hedge_after_min, 3 * absl::Nanoseconds(session.busy));
  hedges_.emplace(held.hedge_at, held.id);
  Reindex(session);
  return lease;
}

Adoption Scheduler::Adopt(SessionId id, absl::Span<const ImageId> images, absl::Time now) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return {};
  Session& session = found->second;
  std::vector<Slot> slots;
  for (const ImageId& image : images) {
    const auto of_job = jobs_.find(image.job);
    if (of_job == jobs_.end() || of_job->second.lane->pool != session.group->pool) continue;
    Job& job = of_job->second;
    Slot slot = {.job = &job, .image = image, .queued_at = now};
    if (job.returned.erase(image.index) > 0) {
      books::TriedImage& tried = job.tried.find(image.index)->second;
      if (tried.crashes > 0 && tried.avoid == session.capacity.worker) {
        --tried.attempts;
        if (--tried.crashes == 0) tried.batch_max = books::TriedImage().batch_max;
      }
      slot.attempt = tried.attempts + 1;
      slot.queued_at = tried.queued_at;
    } else if (job.fresh.Remove(image.index, 1) == 0) {
      continue;
    }
    slot.cost = session.speed.Nanoseconds(job.lane->pool->costs.Predict(job.lane->shape));
    job.virtual_time = job.tenant->clock.Serve(job.virtual_time, slot.cost, 1.0);
    Refile(job);
    ChargeShares(job, slot.cost);
    slot.charged = slot.cost;
    slots.push_back(slot);
  }
  if (slots.empty()) return {};
  Lease lease = MakeLease(session, std::move(slots), now);
  return {.lease = lease.id, .images = std::move(lease.images)};
}

Delivery Scheduler::Deliver(SessionId session_id, LeaseId lease_id, int32_t slot_number, Outcome outcome,
                            absl::Duration device_time, absl::Time now) {
  const auto of_id = sessions_.find(session_id);
  if (of_id == sessions_.end()) return {};
  Session& session = of_id->second;
  const auto lease = leases_.find(lease_id);
  if (lease == leases_.end()) return DeliverLate(session, lease_id, slot_number, outcome, device_time, now);
  if (lease->second.session != &session || slot_number < 0 ||
      slot_number >= static_cast<int32_t>(lease->second.slots.size()) || !lease->second.slots[slot_number].open) {
    return {};
  }
  const Slot slot = lease->second.slots[slot_number];
  Job& job = *slot.job;
  Delivery delivery = {.verdict = Delivery::Verdict::kFinished,
                       .image = slot.image,
                       .attempt = slot.attempt,
                       .queue_wait = lease->second.leased_at - slot.queued_at};
  session.last_progress = now;
  if (outcome == Outcome::kRendered) session.device_failures = 0;
  if (device_time > absl::ZeroDuration()) {
    job.lane->pool->costs.Learn(job.lane->shape, device_time, &session.speed);
    Correct(job, absl::ToInt64Nanoseconds(device_time) - slot.charged);
  }
  CloseSlot(lease, slot_number);
  if (outcome == Outcome::kDeviceFailed) CountDeviceFailure(session, lease_id, now, &delivery.effects);
  if (outcome == Outcome::kFailed || outcome == Outcome::kDeviceFailed) {
    const bool charged = outcome == Outcome::kFailed;
    const books::TriedImage& tried =
        NoteTry(slot, charged ? Charge::kTry : Charge::kNothing, /*batch=*/1, session.capacity.worker);
    if (tried.attempts < options_.attempts_max || !tried.leases.empty()) {
      delivery.verdict = Delivery::Verdict::kRetried;
      RequeueImage(slot, charged);
      return delivery;
    }
  }
  TakeAway(job, slot.image.index, &delivery.effects);
  EndImage(job, slot.image.index);
  return delivery;
}

void Scheduler::CountDeviceFailure(Session& session, LeaseId lease, absl::Time now, Effects* effects) {
  // A device that fails takes all images of a batch along: that is one failure.
  if (session.last_device_failure == lease) return;
  session.last_device_failure = lease;
  if (++session.device_failures < options_.device_failures_max) return;
  session.device_failures = 0;
  session.quarantined_until = now + options_.quarantine_timeout;
  effects->quarantined_sessions.push_back(session.id);
  Reindex(session);
}

void Scheduler::RememberLate(const HeldLease& lease) {
  late_.try_emplace(lease.id, LateLease{lease.session->id, lease.leased_at, lease.slots});
  if (static_cast<int64_t>(late_.size()) > options_.late_leases_max) late_.erase(late_.begin());
}

Delivery Scheduler::DeliverLate(Session& session, LeaseId lease, int32_t number, Outcome outcome,
                                absl::Duration device_time, absl::Time now) {
  const auto found = late_.find(lease);
  if (found == late_.end() || found->second.session != session.id || outcome != Outcome::kRendered) return {};
  const std::vector<Slot>& slots = found->second.slots;
  if (number < 0 || number >= static_cast<int32_t>(slots.size()) || !slots[number].open) return {};
  const Slot& slot = slots[number];
  const auto of_job = jobs_.find(slot.image.job);
  // What came back and is not among the tried images any more has ended.
  if (of_job == jobs_.end() || !of_job->second.tried.contains(slot.image.index)) return {};
  Job& job = of_job->second;
  session.last_progress = now;
  job.lane->pool->costs.Learn(job.lane->shape, device_time, &session.speed);
  Reindex(session);
  Delivery delivery = {.verdict = Delivery::Verdict::kFinished,
                       .image = slot.image,
                       .attempt = slot.attempt,
                       .queue_wait = found->second.leased_at - slot.queued_at};
  TakeAway(job, slot.image.index, &delivery.effects);
  EndImage(job, slot.image.index);
  return delivery;
}

void Scheduler::TakeAway(Job& job, int32_t index, Effects* effects) {
  const auto tried = job.tried.find(index);
  if (tried == job.tried.end()) return;
  if (job.returned.erase(index) > 0) Refile(job);
  const std::vector<LeaseId> leases = tried->second.leases;
  for (const LeaseId id : leases) {
    const auto lease = leases_.find(id);
    auto& slots = lease->second.slots;
    const auto slot = std::find_if(slots.begin(), slots.end(), [&](const Slot& candidate) {
      return candidate.open && candidate.job == &job && candidate.image.index == index;
    });
    const auto number = static_cast<int32_t>(slot - slots.begin());
    const bool whole = lease->second.open_count == 1;
    effects->abandoned.push_back({.session = lease->second.session->id, .lease = id, .slots = {}});
    if (!whole) effects->abandoned.back().slots.push_back(number);
    Correct(job, -slot->charged);
    CloseSlot(lease, number);
  }
}

void Scheduler::CloseSlot(LeaseMap::iterator lease, int32_t number) {
  HeldLease& held = lease->second;
  Slot& slot = held.slots[number];
  Session& session = *held.session;
  Job& job = *slot.job;
  Lane& lane = *job.lane;

  slot.open = false;
  slot.job = nullptr;
  --images_leased_;
  --session.images_leased;
  session.busy -= slot.cost;
  --job.images_leased;
  --lane.images_leased;
  const auto by_session = lane.images_leased_by.find(session.id);
  if (--by_session->second == 0) lane.images_leased_by.erase(by_session);
  const auto of_job = job.leases.find(held.id);
  if (--of_job->second == 0) job.leases.erase(of_job);
  const auto tried = job.tried.find(slot.image.index);
  if (tried != job.tried.end()) std::erase(tried->second.leases, held.id);
  if (--held.open_count == 0) {
    session.leases.erase(held.id);
    hedges_.erase({held.hedge_at, held.id});
    leases_.erase(lease);
  }
  Reindex(session);
}

void Scheduler::EndImage(Job& job, int32_t index) {
  job.tried.erase(index);
  if (!job.open_ended && --job.images_left == 0) ForgetJob(job);
}

books::TriedImage& Scheduler::NoteTry(const Slot& slot, Charge charge, size_t batch, const std::string& worker) {
  books::TriedImage& tried = slot.job->tried[slot.image.index];
  tried.attempts = std::max(tried.attempts, charge == Charge::kNothing ? slot.attempt - 1 : slot.attempt);
  tried.queued_at = slot.queued_at;
  if (!worker.empty()) tried.avoid = worker;
  if (charge != Charge::kCrash) return tried;
  ++tried.crashes;
  // Halves, and then alone: that finds the one that did it without a look into the batch.
  tried.batch_max = tried.crashes == 1 ? std::max(1, static_cast<int32_t>((batch + 1) / 2)) : 1;
  return tried;
}

void Scheduler::RequeueImage(const Slot& slot, bool charged) {
  Job& job = *slot.job;
  // What did not count as a try was not used.
  if (!charged) Correct(job, -slot.charged);
  if (!job.tried.find(slot.image.index)->second.leases.empty()) return;
  job.returned.insert(slot.image.index);
  Refile(job);
}

void Scheduler::ReturnLease(LeaseMap::iterator lease, RetryReason reason, Charge charge, Effects* effects) {
  Requeue requeue = {.reason = reason, .images = 0};
  const std::vector<Slot> slots = lease->second.slots;
  const auto batch = static_cast<size_t>(lease->second.open_count);
  const std::string worker = charge == Charge::kNothing ? "" : lease->second.session->capacity.worker;
  for (size_t number = 0; number < slots.size(); ++number) {
    const Slot& slot = slots[number];
    if (!slot.open) continue;
    // With its last open slot the lease is gone.
    CloseSlot(lease, static_cast<int32_t>(number));
    const books::TriedImage& tried = NoteTry(slot, charge, batch, worker);
    const bool poison = tried.crashes >= options_.crashes_max;
    if (!tried.leases.empty() || (tried.attempts < options_.attempts_max && !poison)) {
      RequeueImage(slot, charge != Charge::kNothing);
      ++requeue.images;
      continue;
    }
    effects->failed.push_back(
        {.image = slot.image, .attempts = tried.attempts, .reason = poison ? RetryReason::kPoison : reason});
    EndImage(*slot.job, slot.image.index);
  }
  if (requeue.images > 0) effects->requeued.push_back(requeue);
}

void Scheduler::ReturnAllLeases(Session& session, RetryReason reason, Charge charge, Effects* effects) {
  const std::set<LeaseId> leases = session.leases;
  const bool told =
      std::any_of(leases.begin(), leases.end(), [&](LeaseId lease) { return leases_.find(lease)->second.started; });
  for (const LeaseId id : leases) {
    const auto lease = leases_.find(id);
    const bool on_device = told ? lease->second.started : id == *leases.begin();
    ReturnLease(lease, reason, on_device ? charge : Charge::kNothing, effects);
  }
}

}  // namespace turbofleet
