// The one thread that touches the store, and what waits for it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/spool/spool.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

// Runs work on the store and the spool in the order in which it was posted, as many pieces as wait in one transaction:
// the price of making something durable is shared by all that comes in while the one before is being paid (group
// commit). Whoever posts is told when his piece is durable, never before.
//
// Thread-safe.
class StoreQueue {
 public:
  struct Options {
    size_t pieces_max = 4'096;                      // In one transaction.
    absl::Duration gather = absl::Milliseconds(2);  // How long the first piece waits for others.
  };
  // Uses the store. May be run again after a transaction that failed, so it must not consume what it holds.
  using Work = std::function<void(JobStore& store, Spool& spool)>;
  // OK: what the work did is durable. An error: none of it has happened, or, after UNAVAILABLE, all of it has and
  // nobody could tell. Called from the store's thread; it may post.
  using Done = std::function<void(const absl::Status& status)>;

  // What it is given outlives it.
  StoreQueue(const Options& options, JobStore* store, Spool* spool);
  // Stop() first, if it was started.
  ~StoreQueue();
  StoreQueue(const StoreQueue&) = delete;
  StoreQueue& operator=(const StoreQueue&) = delete;

  void Post(Work work, Done done);

  // Runs one transaction with what waits, in this thread. False if nothing waits. For those who do not Start().
  bool RunOnce();

  // Runs a thread that does it, until Stop(), which finishes what waits first.
  void Start();
  void Stop();

  size_t waiting() const;
  // How many transactions have failed so far. What one of them did may be durable all the same.
  int64_t failed() const;

 private:
  struct Piece {
    Work work;
    Done done;
  };
  void Run();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !pieces_.empty(); }
  bool IsFull() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || pieces_.size() >= options_.pieces_max; }

  const Options options_;
  JobStore* const store_;
  Spool* const spool_;
  mutable absl::Mutex mu_;
  std::deque<Piece> pieces_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int64_t failed_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread thread_;
};

}  // namespace turbofleet
