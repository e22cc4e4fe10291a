// How other threads tell a thread what happened.
#pragma once

#include <deque>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace turbofleet {

// A queue of calls that one thread makes. It has no limit of its own: each poster has at most a few calls in it (one
// read and one write of a stream, one call of a timer, one for each image that credit admitted). Thread-safe.
class Mailbox {
 public:
  using Call = std::function<void()>;

  // After Close() the call is dropped, so whoever is late does no harm.
  void Post(Call call) {
    absl::MutexLock lock(&mu_);
    if (closed_) return;
    calls_.push_back(std::move(call));
    posted_.Signal();
  }

  // Waits for the next call, and takes it.
  Call Take() {
    absl::MutexLock lock(&mu_);
    while (calls_.empty()) posted_.Wait(&mu_);
    Call call = std::move(calls_.front());
    calls_.pop_front();
    return call;
  }

  void Close() {
    std::deque<Call> dropped;  // Destroyed without the lock: calls may own what posts.
    absl::MutexLock lock(&mu_);
    closed_ = true;
    dropped.swap(calls_);
  }

 private:
  absl::Mutex mu_;
  absl::CondVar posted_;
  std::deque<Call> calls_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace turbofleet
