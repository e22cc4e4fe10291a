#include "worker/agent/timer.h"

#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"

namespace turbofleet {
namespace {

class ThreadTimer : public Timer {
 public:
  ThreadTimer() : thread_([this] { Run(); }) {}

  ~ThreadTimer() override {
    {
      absl::MutexLock lock(&mu_);
      stopping_ = true;
      changed_.Signal();
    }
    thread_.join();
  }

  Id After(absl::Duration delay, std::function<void()> callback) override {
    absl::MutexLock lock(&mu_);
    const Id id = ++last_id_;
    const absl::Time due = clock_.Now() + delay;
    calls_.emplace(std::make_pair(due, id), std::move(callback));
    due_.emplace(id, due);
    changed_.Signal();
    return id;
  }

  void Cancel(Id id) override {
    absl::MutexLock lock(&mu_);
    const auto found = due_.find(id);
    if (found == due_.end()) return;
    calls_.erase({found->second, id});
    due_.erase(found);
  }

 private:
  void Run() {
    absl::MutexLock lock(&mu_);
    while (!stopping_) {
      if (calls_.empty()) {
        changed_.Wait(&mu_);
        continue;
      }
      const auto first = calls_.begin();
      const absl::Duration wait = first->first.first - clock_.Now();
      if (wait > absl::ZeroDuration()) {
        changed_.WaitWithTimeout(&mu_, wait);
        continue;
      }
      const std::function<void()> callback = std::move(first->second);
      due_.erase(first->first.second);
      calls_.erase(first);
      mu_.Unlock();
      callback();
      mu_.Lock();
    }
  }

  const SteadyClock clock_;
  absl::Mutex mu_;
  absl::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Id last_id_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::pair<absl::Time, Id>, std::function<void()>> calls_ ABSL_GUARDED_BY(mu_);
  std::map<Id, absl::Time> due_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;  // Last: it uses all of the above.
};

}  // namespace

std::unique_ptr<Timer> MakeThreadTimer() { return std::make_unique<ThreadTimer>(); }

}  // namespace turbofleet
