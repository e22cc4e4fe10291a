// A fleet of played workers around a scheduler, in virtual time.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/scheduler.h"

namespace turbofleet {

// Workers render one batch after the other and ask for two at a time. What a batch takes is known to the fleet and not
// to the scheduler.
class Fleet {
 public:
  struct Worker {
    double slowness = 1.0;
    int32_t batch_images_max = 32;
    int64_t taken_max = 2;
    std::deque<Lease> leases;
    absl::Time last_end;
  };

  explicit Fleet(const Scheduler::Options& options) : scheduler_(options) {}

  SessionId Add(double slowness, int32_t batch_images_max) {
    const SessionId id{++last_session_};
    scheduler_.OpenSession(id,
                           {.worker = absl::StrCat("w", last_session_),
                            .model_digest = "sha256:a",
                            .size_max = 1024,
                            .batch_images_max = batch_images_max,
                            .has_tiny_vae = true},
                           now_);
    workers_[id].slowness = slowness;
    workers_[id].batch_images_max = batch_images_max;
    workers_[id].last_end = now_;
    Report(id);
    return id;
  }

  // What an image takes on a worker that is not slow.
  static absl::Duration Cost(const BatchShape& shape) {
    return absl::Microseconds(static_cast<double>(shape.width) * shape.height * shape.steps / 4.0);
  }

  // Plays until nothing is under way, or until `end`.
  void Play(absl::Time end = absl::InfiniteFuture()) {
    Assign();
    while (!ends_.empty() && ends_.begin()->first <= end) {
      const auto [at, id] = *ends_.begin();
      ends_.erase(ends_.begin());
      now_ = at;
      const auto worker = workers_.find(id);
      if (worker != workers_.end()) EndBatch(id, worker->second);
      Assign();
    }
    if (end != absl::InfiniteFuture()) now_ = end;
  }

  // Before a batch runs; true: the worker dies of it.
  std::function<bool(const Lease&)> dies_of = [](const Lease&) { return false; };
  std::function<void(const Lease&, absl::Duration each)> on_lease = [](const Lease&, absl::Duration) {};
  std::function<void(ImageId, bool rendered)> on_end = [](ImageId, bool) {};

  Scheduler& scheduler() { return scheduler_; }
  std::map<SessionId, Worker>& workers() { return workers_; }
  absl::Time now() const { return now_; }
  int deaths() const { return deaths_; }

 private:
  void Report(SessionId id) {
    const Worker& worker = workers_[id];
    WorkerReport report = {.batches_taken_max = worker.taken_max};
    for (const Lease& lease : worker.leases) report.leases.push_back(lease.id);
    if (!worker.leases.empty()) {
      report.started.push_back(worker.leases.front().id);
      report.last_lease_received = worker.leases.back().id;
    }
    Effects effects;
    (void)scheduler_.Report(id, report, now_, &effects);
    Carry(effects);
  }

  void Carry(const Effects& effects) {
    for (const FailedImage& failed : effects.failed) on_end(failed.image, false);
  }

  void Start(SessionId id, Worker& worker) {
    const Lease& lease = worker.leases.front();
    const auto count = static_cast<double>(lease.images.size());
    ends_.emplace(now_ + count * worker.slowness * Cost(lease.shape), id);
  }

  void Assign() {
    for (Lease& lease : scheduler_.Assign(now_)) {
      Worker& worker = workers_.at(lease.session);
      on_lease(lease, worker.slowness * Cost(lease.shape));
      worker.leases.push_back(std::move(lease));
      if (worker.leases.size() == 1) Start(worker.leases[0].session, worker);
    }
  }

  void EndBatch(SessionId id, Worker& worker) {
    const Lease lease = worker.leases.front();
    if (dies_of(lease)) {
      ++deaths_;
      Report(id);
      Carry(scheduler_.EndSession(id, now_));
      const Worker dead = worker;
      workers_.erase(id);
      Add(dead.slowness, dead.batch_images_max);
      return;
    }
    for (size_t slot = 0; slot < lease.images.size(); ++slot) {
      const Delivery delivery = scheduler_.Deliver(id, lease.id, static_cast<int32_t>(slot), Outcome::kRendered,
                                                   worker.slowness * Cost(lease.shape), now_);
      if (delivery.verdict == Delivery::Verdict::kFinished) on_end(delivery.image, true);
      Carry(delivery.effects);
    }
    worker.leases.pop_front();
    worker.last_end = now_;
    ++worker.taken_max;
    Report(id);
    if (!worker.leases.empty()) Start(id, worker);
  }

  Scheduler scheduler_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t last_session_ = 0;
  std::map<SessionId, Worker> workers_;
  std::multimap<absl::Time, SessionId> ends_;
  int deaths_ = 0;
};

}  // namespace turbofleet
