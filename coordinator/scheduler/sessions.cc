// Workers: what they report, and what is done with those that do not.
#include <algorithm>
#include <bit>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/scheduler.h"

namespace turbofleet {
namespace {

void Append(Effects&& from, Effects* to) {
  to->failed.insert(to->failed.end(), from.failed.begin(), from.failed.end());
  to->abandoned.insert(to->abandoned.end(), from.abandoned.begin(), from.abandoned.end());
  to->requeued.insert(to->requeued.end(), from.requeued.begin(), from.requeued.end());
}

}  // namespace

void Scheduler::OpenSession(SessionId id, const WorkerCapacity& capacity, absl::Time now) {
  assert(!sessions_.contains(id));
  Pool& pool = PoolOf(capacity.model_digest);
  books::WorkerGroup& group = pool.groups[{capacity.size_max, capacity.has_tiny_vae}];
  group.pool = &pool;
  group.size_max = capacity.size_max;
  group.has_tiny_vae = capacity.has_tiny_vae;
  ++group.sessions;
  Session& session = sessions_[id];
  session.id = id;
  session.capacity = capacity;
  if (session.capacity.worker.empty()) session.capacity.worker = absl::StrCat("#", static_cast<uint64_t>(id));
  session.group = &group;
  session.last_report = now;
  session.last_progress = now;
  Reindex(session);
}

void Scheduler::ForgetSession(Session& session) {
  session.draining = true;  // Out of all counts.
  Reindex(session);
  expiries_.erase({session.expiry, session.id});
  books::WorkerGroup& group = *session.group;
  Pool& pool = *group.pool;
  if (--group.sessions == 0) pool.groups.erase({group.size_max, group.has_tiny_vae});
  sessions_.erase(SessionId(session.id));
  ForgetPoolIfUnused(pool);
}

Effects Scheduler::EndSession(SessionId id, absl::Time /*now*/) {
  Effects effects;
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return effects;
  ReturnAllLeases(found->second, RetryReason::kWorkerLost, Charge::kCrash, &effects);
  ForgetSession(found->second);
  return effects;
}

absl::Time Scheduler::StuckAt(const Session& session) const {
  if (session.leases.empty()) return absl::InfiniteFuture();
  if (!session.speed.measured()) {
    return session.last_progress + std::max(options_.stuck_timeout, options_.first_stuck_timeout);
  }
  const HeldLease& oldest = leases_.find(*session.leases.begin())->second;
  return session.last_progress + std::max(options_.stuck_timeout, 10 * absl::Nanoseconds(oldest.predicted));
}

void Scheduler::Reindex(Session& session) {
  books::WorkerGroup& group = *session.group;
  const bool serving = session.Serving();
  group.serving += (serving ? 1 : 0) - (session.counted_serving ? 1 : 0);
  session.counted_serving = serving;

  const bool takes_more = serving && session.batches_sent < session.batches_taken_max &&
                          static_cast<int64_t>(session.leases.size()) < options_.batches_held_max;
  std::optional<books::ReadyKey> ready;
  if (takes_more) {
    const int power = std::bit_width(static_cast<uint64_t>(session.speed.units()));
    ready = books::ReadyKey(session.leases.size(), -power, session.last_lease_sent, session.id);
  }
  if (ready != session.ready) {
    if (session.ready.has_value()) group.ready.erase(*session.ready);
    if (ready.has_value()) group.ready.emplace(*ready, &session);
    session.ready = ready;
  }

  std::optional<int64_t> speed;
  if (takes_more || (serving && !session.leases.empty())) speed = session.speed.units();
  if (speed != session.counted_speed) {
    group.speed_sum += speed.value_or(0) - session.counted_speed.value_or(0);
    if (session.counted_speed.has_value()) group.speeds.erase(group.speeds.find(*session.counted_speed));
    if (speed.has_value()) group.speeds.insert(*speed);
    session.counted_speed = speed;
  }

  const absl::Time expiry = std::min({session.last_report + options_.session_timeout, StuckAt(session),
                                      session.quarantined_until.value_or(absl::InfiniteFuture())});
  if (expiry == session.expiry) return;
  expiries_.erase({session.expiry, session.id});
  expiries_.emplace(expiry, session.id);
  session.expiry = expiry;
}

absl::Status Scheduler::CheckReport(const Session& session, const WorkerReport& report) const {
  if (report.batches_taken_max < 0) return absl::InvalidArgumentError("report.batches_taken_max: is negative");
  if (report.last_lease_received > session.last_lease_sent) {
    return absl::InvalidArgumentError("report.last_lease_received: was not sent in this session");
  }
  for (const LeaseId lease : report.leases) {
    if (lease > report.last_lease_received) {
      return absl::InvalidArgumentError("report.leases: has one above last_lease_received");
    }
  }
  const std::set<LeaseId> listed(report.leases.begin(), report.leases.end());
  for (const LeaseId lease : report.started) {
    if (!listed.contains(lease)) return absl::InvalidArgumentError("report.started: has one that is not in leases");
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Report(SessionId id, const WorkerReport& report, absl::Time now, Effects* effects) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return absl::NotFoundError("session: has ended");
  Session& session = found->second;
  if (const absl::Status status = CheckReport(session, report); !status.ok()) return status;

  session.last_report = now;
  session.batches_taken_max = std::max(session.batches_taken_max, report.batches_taken_max);
  session.draining = report.draining;
  if (report.progress != session.progress) {
    session.progress = report.progress;
    session.last_progress = now;
    session.stuck = false;
  }
  for (const LeaseId id_started : report.started) {
    const auto lease = leases_.find(id_started);
    if (lease != leases_.end() && lease->second.session == &session) lease->second.started = true;
  }
  const std::set<LeaseId> listed(report.leases.begin(), report.leases.end());
  std::vector<LeaseId> released;
  for (const LeaseId lease : session.leases) {
    if (lease <= report.last_lease_received && !listed.contains(lease)) released.push_back(lease);
  }
  for (const LeaseId lease : released) {
    ReturnLease(leases_.find(lease), RetryReason::kReleased, report.draining ? Charge::kNothing : Charge::kTry,
                effects);
  }
  Reindex(session);
  return absl::OkStatus();
}

void Scheduler::StopExpiredJobs(absl::Time now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Job& job = jobs_.find(deadlines_.begin()->second)->second;
    deadlines_.erase(deadlines_.begin());
    job.expired = true;
    expired_jobs_.push_back(job.id);
    Refile(job);
  }
}

Effects Scheduler::Expire(absl::Time now) {
  Effects effects;
  while (!expiries_.empty() && expiries_.begin()->first <= now) {
    const SessionId id = expiries_.begin()->second;
    Session& session = sessions_.find(id)->second;
    if (session.last_report + options_.session_timeout <= now) {
      Append(EndSession(id, now), &effects);
      effects.lost_sessions.push_back(id);
      continue;
    }
    if (session.quarantined_until.has_value() && *session.quarantined_until <= now) {
      session.quarantined_until.reset();
      Reindex(session);
      continue;
    }
    session.stuck = true;
    effects.stuck_sessions.push_back(id);
    for (const LeaseId lease : session.leases) {
      effects.abandoned.push_back({.session = id, .lease = lease, .slots = {}});
      RememberLate(leases_.find(lease)->second);
    }
    ReturnAllLeases(session, RetryReason::kWorkerStuck, Charge::kTry, &effects);
    Reindex(session);
  }
  StopExpiredJobs(now);
  for (const JobId job : expired_jobs_) {
    if (jobs_.contains(job)) effects.expired_jobs.push_back(job);
  }
  expired_jobs_.clear();
  return effects;
}

absl::Time Scheduler::NextExpiry() const {
  if (!expired_jobs_.empty()) return absl::InfinitePast();
  return std::min(expiries_.empty() ? absl::InfiniteFuture() : expiries_.begin()->first,
                  deadlines_.empty() ? absl::InfiniteFuture() : deadlines_.begin()->first);
}

}  // namespace turbofleet
