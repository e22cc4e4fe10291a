// Threads for what has to be done to pictures off the compute thread: files, digests, start pictures.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace turbofleet {

// Runs jobs in the order in which they came, several at a time. Thread-safe.
class EncoderPool {
 public:
  struct Options {
    int threads = 1;
    // Run() waits at this number of waiting jobs. What really bounds memory is the credit that agents withhold; this
    // is the second line of defence.
    size_t queued_max = 256;
  };

  explicit EncoderPool(const Options& options);
  // Runs what is queued, then joins. REQUIRES: nobody calls Run() any more.
  ~EncoderPool();
  EncoderPool(const EncoderPool&) = delete;
  EncoderPool& operator=(const EncoderPool&) = delete;

  // Queues a job; waits while the queue is full, so never call it from a job or a gRPC reaction.
  void Run(std::function<void()> job);

  // Queues a job that is bounded by other means; never waits.
  void RunUnbounded(std::function<void()> job);

  // Jobs that wait for a thread.
  size_t queued() const;

 private:
  void Work();

  const Options options_;
  mutable absl::Mutex mu_;
  absl::CondVar added_;
  absl::CondVar taken_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // Last: they use all of the above.
};

}  // namespace turbofleet
