// A timer whose calls come when the test says so.
#pragma once

#include <functional>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/worker/agent/fake_coordinator.h"
#include "worker/agent/timer.h"

namespace turbofleet {

// Thread-safe. Calls are known by their delay.
class ManualTimer : public Timer {
 public:
  Id After(absl::Duration delay, std::function<void()> callback) override {
    absl::MutexLock lock(&mu_);
    calls_.emplace(++last_id_, std::make_pair(delay, std::move(callback)));
    return last_id_;
  }

  void Cancel(Id id) override {
    absl::MutexLock lock(&mu_);
    calls_.erase(id);
  }

  // Waits until a call with this delay is pending, and makes it. Returns whether it came.
  bool Fire(absl::Duration delay) {
    std::function<void()> callback;
    {
      absl::MutexLock lock(&mu_);
      auto found = calls_.end();
      const auto pending = [this, delay, &found] {
        mu_.AssertHeld();
        for (found = calls_.begin(); found != calls_.end(); ++found) {
          if (found->second.first == delay) return true;
        }
        return false;
      };
      if (!mu_.AwaitWithTimeout(absl::Condition(&pending), kPatience)) return false;
      callback = std::move(found->second.second);
      calls_.erase(found);
    }
    callback();
    return true;
  }

 private:
  absl::Mutex mu_;
  Id last_id_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<Id, std::pair<absl::Duration, std::function<void()>>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace turbofleet
