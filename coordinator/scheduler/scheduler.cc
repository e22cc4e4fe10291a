#include "coordinator/scheduler/scheduler.h"

#include <algorithm>
#include <cassert>

namespace turbofleet {
namespace {

// What an image costs its job in virtual time. A step and the decoding take about equally long per pixel; it only has
// to be right in proportion.
uint64_t CostOf(const BatchShape& shape) {
  return static_cast<uint64_t>(shape.width) * static_cast<uint64_t>(shape.height) *
         static_cast<uint64_t>(shape.steps - shape.first_step + 1);
}

int64_t CeilOfDivision(int64_t dividend, int64_t divisor) { return (dividend + divisor - 1) / divisor; }

}  // namespace

Scheduler::Scheduler(const Options& options) : options_(options) {
  assert(options.attempts_max >= 1 && options.attempts_max <= 255);
}

// ---------------------------------------------------------------------------------------------------------------------
// Jobs

std::optional<LimitReached> Scheduler::Submit(const JobPlacement& placement, absl::Time now) {
  assert(placement.image_count > 0 && (jobs_.empty() || jobs_.rbegin()->first < placement.id));
  if (static_cast<int64_t>(jobs_.size()) >= options_.jobs_max) return LimitReached{"jobs_max", options_.jobs_max};
  if (images_queued_ + placement.image_count > options_.images_queued_max) {
    return LimitReached{"images_queued_max", options_.images_queued_max};
  }
  if (prompt_bytes_ + placement.prompt_bytes > options_.prompt_bytes_max) {
    return LimitReached{"prompt_bytes_max", options_.prompt_bytes_max};
  }

  const auto [lane, is_new] = lanes_.try_emplace(LaneKey{placement.model_digest, placement.shape});
  if (is_new) {
    for (const auto& [id, session] : sessions_) lane->second.workers_serving += Serves(session, lane->first);
  }
  ++lane->second.jobs;
  Job& job = jobs_[placement.id];
  job.lane = lane;
  job.submitted = now;
  job.prompt_bytes = placement.prompt_bytes;
  job.image_count = placement.image_count;
  job.attempts.resize(placement.image_count);
  prompt_bytes_ += job.prompt_bytes;
  images_queued_ += job.image_count;
  LevelWithOthers(job);
  EnterLane(placement.id, job);
  return std::nullopt;
}

Effects Scheduler::Cancel(JobId id) {
  Effects effects;
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return effects;
  Job& job = found->second;
  LeaveLane(id, job);
  images_queued_ -= job.Queued();
  while (!job.leases.empty()) {
    const auto lease = leases_.find(job.leases.begin()->first);
    Abandonment abandonment = {.session = lease->second.session, .lease = lease->first, .slots = {}};
    const bool whole = lease->second.open_count == job.leases.begin()->second;
    for (int32_t slot = 0, left = job.leases.begin()->second; left > 0; ++slot) {
      if (!lease->second.open[slot] || lease->second.images[slot].job != id) continue;
      if (!whole) abandonment.slots.push_back(slot);
      --left;
      // With the last slot the lease is gone.
      CloseSlot(lease, slot);
    }
    effects.abandoned.push_back(std::move(abandonment));
  }
  ForgetJob(found);
  return effects;
}

void Scheduler::SetPaused(JobId id, bool paused) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.paused == paused) return;
  found->second.paused = paused;
  if (paused) {
    LeaveLane(id, found->second);
  } else {
    LevelWithOthers(found->second);
    EnterLane(id, found->second);
  }
}

void Scheduler::LevelWithOthers(Job& job) {
  // Those it competes with may lag behind the rest of the model's jobs, if few workers serve their shape.
  const Lane& lane = job.lane->second;
  const uint64_t level = lane.turns.empty() ? virtual_times_[job.lane->first.model_digest] : lane.turns.begin()->first;
  job.virtual_time = std::max(job.virtual_time, level);
}

void Scheduler::EnterLane(JobId id, Job& job) {
  if (job.waiting || job.paused || job.Queued() == 0) return;
  job.waiting = true;
  Lane& lane = job.lane->second;
  if (job.next_fresh < job.image_count) lane.turns.emplace(job.virtual_time, id);
  if (!job.returned.empty()) lane.returns.insert(id);
  lane.images_queued += job.Queued();
}

void Scheduler::LeaveLane(JobId id, Job& job) {
  if (!job.waiting) return;
  job.waiting = false;
  Lane& lane = job.lane->second;
  lane.turns.erase({job.virtual_time, id});
  lane.returns.erase(id);
  lane.images_queued -= job.Queued();
}

void Scheduler::ForgetJob(JobMap::iterator job) {
  prompt_bytes_ -= job->second.prompt_bytes;
  const LaneMap::iterator lane = job->second.lane;
  jobs_.erase(job);
  if (--lane->second.jobs > 0) return;
  const std::string model_digest = lane->first.model_digest;
  lanes_.erase(lane);
  const auto other = lanes_.lower_bound(LaneKey{model_digest, {}});
  if (other == lanes_.end() || other->first.model_digest != model_digest) virtual_times_.erase(model_digest);
}

void Scheduler::EndImage(ImageId image) {
  const auto found = jobs_.find(image.job);
  Job& job = found->second;
  job.avoid.erase(image.index);
  if (++job.ended == job.image_count) ForgetJob(found);
}

// ---------------------------------------------------------------------------------------------------------------------
// Sessions

bool Scheduler::Serves(const Session& session, const LaneKey& lane) {
  const WorkerCapacity& capacity = session.capacity;
  return !session.draining && !session.stuck && capacity.model_digest == lane.model_digest &&
         std::max(lane.shape.width, lane.shape.height) <= capacity.size_max &&
         (capacity.has_tiny_vae || !lane.shape.tiny_vae);
}

void Scheduler::RecountServing() {
  for (auto& [key, lane] : lanes_) {
    lane.workers_serving = 0;
    for (const auto& [id, session] : sessions_) lane.workers_serving += Serves(session, key);
  }
}

void Scheduler::Reindex(SessionId id, Session& session) {
  if (session.ready.has_value()) ready_.erase(*session.ready);
  session.ready.reset();
  const bool takes_more = session.batches_sent < session.batches_taken_max &&
                          static_cast<int64_t>(session.leases.size()) < options_.batches_held_max;
  if (takes_more && !session.draining && !session.stuck) {
    session.ready = ReadyKey(session.leases.size(), session.images_leased, session.last_lease_sent, id);
    ready_.insert(*session.ready);
  }

  expiries_.erase({session.expiry, id});
  session.expiry = session.last_report + options_.session_timeout;
  if (!session.leases.empty()) {
    session.expiry = std::min(session.expiry, session.last_progress + options_.stuck_timeout);
  }
  expiries_.emplace(session.expiry, id);
}

void Scheduler::OpenSession(SessionId id, const WorkerCapacity& capacity, absl::Time now) {
  assert(!sessions_.contains(id));
  Session& session = sessions_[id];
  session.capacity = capacity;
  session.last_report = now;
  session.last_progress = now;
  Reindex(id, session);
  RecountServing();
}

Effects Scheduler::EndSession(SessionId id, absl::Time /*now*/) {
  Effects effects;
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return effects;
  ReturnAllLeases(found->second, RetryReason::kWorkerLost, &effects);
  if (found->second.ready.has_value()) ready_.erase(*found->second.ready);
  expiries_.erase({found->second.expiry, id});
  sessions_.erase(found);
  RecountServing();
  return effects;
}

absl::Status Scheduler::Report(SessionId id, const WorkerReport& report, absl::Time now, Effects* effects) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return absl::NotFoundError("session: has ended");
  Session& session = found->second;
  if (report.batches_taken_max < 0) return absl::InvalidArgumentError("report.batches_taken_max: is negative");
  if (report.last_lease_received > session.last_lease_sent) {
    return absl::InvalidArgumentError("report.last_lease_received: was not sent in this session");
  }
  const std::set<LeaseId> listed(report.leases.begin(), report.leases.end());
  if (!listed.empty() && *listed.rbegin() > report.last_lease_received) {
    return absl::InvalidArgumentError("report.leases: has one above last_lease_received");
  }

  session.last_report = now;
  session.batches_taken_max = std::max(session.batches_taken_max, report.batches_taken_max);
  const bool served_before = !session.draining && !session.stuck;
  session.draining = report.draining;
  if (report.progress != session.progress) {
    session.progress = report.progress;
    session.last_progress = now;
    session.stuck = false;
  }
  std::vector<LeaseId> released;
  for (const LeaseId lease : session.leases) {
    if (lease <= report.last_lease_received && !listed.contains(lease)) released.push_back(lease);
  }
  // Last first, because each goes to the front of the queue.
  for (auto lease = released.rbegin(); lease != released.rend(); ++lease) {
    ReturnLease(leases_.find(*lease), RetryReason::kReleased, /*charged=*/!report.draining, effects);
  }
  Reindex(id, session);
  if (served_before != (!session.draining && !session.stuck)) RecountServing();
  return absl::OkStatus();
}

Effects Scheduler::Expire(absl::Time now) {
  Effects effects;
  while (!expiries_.empty() && expiries_.begin()->first <= now) {
    const SessionId id = expiries_.begin()->second;
    Session& session = sessions_.find(id)->second;
    if (session.last_report + options_.session_timeout <= now) {
      Effects ended = EndSession(id, now);
      effects.lost_sessions.push_back(id);
      effects.failed.insert(effects.failed.end(), ended.failed.begin(), ended.failed.end());
      effects.requeued.insert(effects.requeued.end(), ended.requeued.begin(), ended.requeued.end());
      continue;
    }
    session.stuck = true;
    effects.stuck_sessions.push_back(id);
    for (const LeaseId lease : session.leases) {
      effects.abandoned.push_back({.session = id, .lease = lease, .slots = {}});
    }
    ReturnAllLeases(session, RetryReason::kWorkerStuck, &effects);
    Reindex(id, session);
    RecountServing();
  }
  return effects;
}

absl::Time Scheduler::NextExpiry() const {
  return expiries_.empty() ? absl::InfiniteFuture() : expiries_.begin()->first;
}

// ---------------------------------------------------------------------------------------------------------------------
// Leases

Delivery Scheduler::Deliver(SessionId session_id, LeaseId lease_id, int32_t slot, Outcome outcome, absl::Time now) {
  const auto lease = leases_.find(lease_id);
  if (lease == leases_.end() || lease->second.session != session_id || slot < 0 ||
      slot >= static_cast<int32_t>(lease->second.images.size()) || !lease->second.open[slot]) {
    return {};
  }
  const ImageId image = lease->second.images[slot];
  Job& job = jobs_.find(image.job)->second;
  Delivery delivery = {.verdict = Delivery::Verdict::kFinished,
                       .image = image,
                       .attempt = job.attempts[image.index],
                       .queue_wait = lease->second.leased_at - job.submitted};
  sessions_.find(session_id)->second.last_progress = now;
  CloseSlot(lease, slot);
  if (outcome == Outcome::kFailed && delivery.attempt < options_.attempts_max) {
    delivery.verdict = Delivery::Verdict::kRetried;
    job.avoid[image.index] = session_id;
    RequeueImage(image);
  } else {
    EndImage(image);
  }
  return delivery;
}

void Scheduler::CloseSlot(LeaseMap::iterator lease, int32_t slot) {
  const LeaseId id = lease->first;
  HeldLease& held = lease->second;
  const SessionId session_id = held.session;
  Session& session = sessions_.find(session_id)->second;
  Job& job = jobs_.find(held.images[slot].job)->second;
  Lane& lane = job.lane->second;

  held.open[slot] = false;
  --images_leased_;
  --session.images_leased;
  --lane.images_leased;
  const auto by_session = lane.images_leased_by.find(session_id);
  if (--by_session->second == 0) lane.images_leased_by.erase(by_session);
  const auto of_job = job.leases.find(id);
  if (--of_job->second == 0) job.leases.erase(of_job);
  if (--held.open_count == 0) {
    session.leases.erase(id);
    leases_.erase(lease);
  }
  Reindex(session_id, session);
}

void Scheduler::RequeueImage(ImageId image) {
  Job& job = jobs_.find(image.job)->second;
  LeaveLane(image.job, job);
  job.returned.push_front(image.index);
  ++images_queued_;
  EnterLane(image.job, job);
}

void Scheduler::ReturnLease(LeaseMap::iterator lease, RetryReason reason, bool charged, Effects* effects) {
  Requeue requeue = {.reason = reason, .images = 0};
  // Last first, because each goes to the front of the queue. With its last open slot the lease is gone.
  const HeldLease held = lease->second;
  for (int32_t slot = static_cast<int32_t>(held.images.size()) - 1; slot >= 0; --slot) {
    if (!held.open[slot]) continue;
    const ImageId image = held.images[slot];
    uint8_t& attempts = jobs_.find(image.job)->second.attempts[image.index];
    CloseSlot(lease, slot);
    if (!charged) --attempts;
    if (attempts < options_.attempts_max) {
      RequeueImage(image);
      ++requeue.images;
    } else {
      effects->failed.push_back({.image = image, .attempts = attempts, .reason = reason});
      EndImage(image);
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

// ---------------------------------------------------------------------------------------------------------------------
// Assignment

std::optional<Scheduler::Candidate> Scheduler::PeekLane(const Lane& lane, SessionId session) const {
  for (const JobId id : lane.returns) {
    const Job& job = jobs_.find(id)->second;
    const int32_t index = job.returned.front();
    const auto avoid = job.avoid.find(index);
    const bool avoided = avoid != job.avoid.end() && avoid->second == session && lane.workers_serving > 1;
    if (!avoided) return Candidate{.fresh = false, .virtual_time = 0, .image = {id, index}};
  }
  if (lane.turns.empty()) return std::nullopt;
  const auto& [virtual_time, id] = *lane.turns.begin();
  return Candidate{.fresh = true, .virtual_time = virtual_time, .image = {id, jobs_.find(id)->second.next_fresh}};
}

Scheduler::LaneMap::iterator Scheduler::PickLane(SessionId id, const Session& session) {
  auto best = lanes_.end();
  std::optional<Candidate> best_candidate;
  const LaneKey first = {.model_digest = session.capacity.model_digest, .shape = {}};
  for (auto lane = lanes_.lower_bound(first);
       lane != lanes_.end() && lane->first.model_digest == session.capacity.model_digest; ++lane) {
    if (!Serves(session, lane->first)) continue;
    const std::optional<Candidate> candidate = PeekLane(lane->second, id);
    if (!candidate.has_value() || (best_candidate.has_value() && *best_candidate < *candidate)) continue;
    best = lane;
    best_candidate = candidate;
  }
  return best;
}

void Scheduler::TakeImage(const Candidate& candidate) {
  const ImageId image = candidate.image;
  Job& job = jobs_.find(image.job)->second;
  LeaveLane(image.job, job);
  if (candidate.fresh) {
    uint64_t& virtual_time = virtual_times_[job.lane->first.model_digest];
    virtual_time = std::max(virtual_time, job.virtual_time);
    job.virtual_time += CostOf(job.lane->first.shape);
    ++job.next_fresh;
  } else {
    job.returned.pop_front();
  }
  --images_queued_;
  ++images_leased_;
  ++job.lane->second.images_leased;
  ++job.attempts[image.index];
  EnterLane(image.job, job);
}

std::vector<ImageId> Scheduler::CutBatch(SessionId id, const Session& session, const Lane& lane) {
  // An equal part of all that is not finished, less what the worker has of it: the last images of a job end on all
  // workers at about the same time.
  const auto held = lane.images_leased_by.find(id);
  const int64_t share = CeilOfDivision(lane.images_queued + lane.images_leased, std::max(1, lane.workers_serving)) -
                        (held == lane.images_leased_by.end() ? 0 : held->second);
  const int64_t images_max = std::clamp<int64_t>(share, 1, session.capacity.batch_images_max);

  std::vector<ImageId> images;
  while (static_cast<int64_t>(images.size()) < images_max) {
    const std::optional<Candidate> next = PeekLane(lane, id);
    if (!next.has_value()) break;
    const int32_t attempts = jobs_.find(next->image.job)->second.attempts[next->image.index];
    const bool alone = attempts > 0 && attempts == options_.attempts_max - 1;
    if (alone && !images.empty()) break;
    TakeImage(*next);
    images.push_back(next->image);
    if (alone) break;
  }
  return images;
}

std::optional<Lease> Scheduler::AssignTo(SessionId id, Session& session, absl::Time now) {
  const LaneMap::iterator lane = PickLane(id, session);
  if (lane == lanes_.end()) return std::nullopt;
  std::vector<ImageId> images = CutBatch(id, session, lane->second);
  last_lease_ = static_cast<LeaseId>(static_cast<uint64_t>(last_lease_) + 1);
  const auto count = static_cast<int32_t>(images.size());
  for (const ImageId& image : images) ++jobs_.find(image.job)->second.leases[last_lease_];
  lane->second.images_leased_by[id] += count;
  leases_[last_lease_] = {.session = id,
                          .leased_at = now,
                          .images = images,
                          .open = std::vector<bool>(images.size(), true),
                          .open_count = count};
  if (session.leases.empty()) session.last_progress = now;
  session.leases.insert(last_lease_);
  session.images_leased += count;
  session.last_lease_sent = last_lease_;
  ++session.batches_sent;
  Reindex(id, session);
  return Lease{.id = last_lease_, .session = id, .shape = lane->first.shape, .images = std::move(images)};
}

std::vector<Lease> Scheduler::Assign(absl::Time now) {
  std::vector<Lease> leases;
  auto next = ready_.begin();
  while (next != ready_.end() && images_queued_ > 0) {
    // A session that gets a lease comes up again further on, behind those that have less; one that gets nothing now
    // would get nothing later either.
    const ReadyKey key = *next;
    const SessionId id = std::get<SessionId>(key);
    std::optional<Lease> lease = AssignTo(id, sessions_.find(id)->second, now);
    if (lease.has_value()) leases.push_back(*std::move(lease));
    next = ready_.upper_bound(key);
  }
  return leases;
}

SchedulerLoad Scheduler::Load(absl::Time now) const {
  SchedulerLoad load = {.jobs = static_cast<int64_t>(jobs_.size()),
                        .images_queued = images_queued_,
                        .images_leased = images_leased_,
                        .prompt_bytes = prompt_bytes_,
                        .oldest_queued_age = absl::ZeroDuration()};
  for (const auto& [id, job] : jobs_) {
    if (job.Queued() > 0) load.oldest_queued_age = std::max(load.oldest_queued_age, now - job.submitted);
  }
  return load;
}

std::optional<SessionLoad> Scheduler::LoadOf(SessionId id) const {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return std::nullopt;
  return SessionLoad{
      .images_leased = found->second.images_leased, .draining = found->second.draining, .stuck = found->second.stuck};
}

}  // namespace turbofleet
