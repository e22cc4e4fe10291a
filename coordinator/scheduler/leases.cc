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
      const books::TriedImage& tried = job.tried.find(image.index)->second;
      slot.attempt = tried.attempts + 1;
      slot.queued_at = tried.queued_at;
    } else if (job.fresh.Remove(image.index, 1) == 0) {
      continue;
    }
    slot.cost = session.speed.Nanoseconds(job.lane->pool->costs.Predict(job.lane->shape));
    job.virtual_time = job.tenant->clock.Serve(job.virtual_time, slot.cost, 1.0);
    Refile(job);
    ChargeShares(job, slot.cost);
    slots.push_back(slot);
  }
  if (slots.empty()) return {};
  Lease lease = MakeLease(session, std::move(slots), now);
  return {.lease = lease.id, .images = std::move(lease.images)};
}

Delivery Scheduler::Deliver(SessionId session_id, LeaseId lease_id, int32_t slot_number, Outcome outcome,
                            absl::Duration device_time, absl::Time now) {
  const auto lease = leases_.find(lease_id);
  if (lease == leases_.end() || lease->second.session->id != session_id || slot_number < 0 ||
      slot_number >= static_cast<int32_t>(lease->second.slots.size()) || !lease->second.slots[slot_number].open) {
    return {};
  }
  const Slot slot = lease->second.slots[slot_number];
  Session& session = *lease->second.session;
  Job& job = *slot.job;
  Delivery delivery = {.verdict = Delivery::Verdict::kFinished,
                       .image = slot.image,
                       .attempt = slot.attempt,
                       .queue_wait = lease->second.leased_at - slot.queued_at};
  session.last_progress = now;
  if (device_time > absl::ZeroDuration()) {
    job.lane->pool->costs.Learn(job.lane->shape, device_time, &session.speed);
    Correct(job, absl::ToInt64Nanoseconds(device_time) - slot.cost);
  }
  CloseSlot(lease, slot_number);
  const bool charged = outcome == Outcome::kFailed;
  if (outcome == Outcome::kDeviceFailed || (charged && slot.attempt < options_.attempts_max)) {
    delivery.verdict = Delivery::Verdict::kRetried;
    RequeueImage(job, slot, charged, session.capacity.worker);
  } else {
    EndImage(job, slot.image.index);
  }
  return delivery;
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
    leases_.erase(lease);
  }
  Reindex(session);
}

void Scheduler::EndImage(Job& job, int32_t index) {
  job.tried.erase(index);
  if (!job.open_ended && --job.images_left == 0) ForgetJob(job);
}

void Scheduler::RequeueImage(Job& job, const Slot& slot, bool charged, const std::string& avoid) {
  books::TriedImage& tried = job.tried[slot.image.index];
  tried.attempts = std::max(tried.attempts, charged ? slot.attempt : slot.attempt - 1);
  tried.queued_at = slot.queued_at;
  if (!avoid.empty()) tried.avoid = avoid;
  job.returned.insert(slot.image.index);
  Refile(job);
  // What did not count as a try was not used.
  if (!charged) Correct(job, -slot.cost);
}

void Scheduler::ReturnLease(LeaseMap::iterator lease, RetryReason reason, bool charged, Effects* effects) {
  Requeue requeue = {.reason = reason, .images = 0};
  const std::vector<Slot> slots = lease->second.slots;
  for (size_t number = 0; number < slots.size(); ++number) {
    const Slot& slot = slots[number];
    if (!slot.open) continue;
    // With its last open slot the lease is gone.
    CloseSlot(lease, static_cast<int32_t>(number));
    if (!charged || slot.attempt < options_.attempts_max) {
      RequeueImage(*slot.job, slot, charged, /*avoid=*/"");
      ++requeue.images;
    } else {
      effects->failed.push_back({.image = slot.image, .attempts = slot.attempt, .reason = reason});
      EndImage(*slot.job, slot.image.index);
    }
  }
  if (requeue.images > 0) effects->requeued.push_back(requeue);
}

void Scheduler::ReturnAllLeases(Session& session, RetryReason reason, Effects* effects) {
  while (!session.leases.empty()) {
    const bool on_device = session.leases.size() == 1;
    ReturnLease(leases_.find(*session.leases.rbegin()), reason, /*charged=*/on_device, effects);
  }
}

}  // namespace turbofleet
