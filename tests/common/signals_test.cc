#include "common/signals.h"

#include <signal.h>
#include <unistd.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"

namespace turbofleet {
namespace {

class Counts {
 public:
  void Add(int count) {
    absl::MutexLock lock(&mu_);
    counts_.push_back(count);
  }
  // Waits until `size` signals were counted.
  std::vector<int> Await(size_t size) {
    absl::MutexLock lock(&mu_);
    wanted_ = size;
    mu_.Await(absl::Condition(
        +[](Counts* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) { return self->counts_.size() >= self->wanted_; },
        this));
    return counts_;
  }

 private:
  absl::Mutex mu_;
  std::vector<int> counts_ ABSL_GUARDED_BY(mu_);
  size_t wanted_ ABSL_GUARDED_BY(mu_) = 0;
};

TEST(SignalWaiterTest, CountsTerminationAndInterruptTogether) {
  Counts counts;
  SignalWaiter waiter([&](int count) { counts.Add(count); });
  kill(getpid(), SIGTERM);
  EXPECT_THAT(counts.Await(1), ::testing::ElementsAre(1));
  kill(getpid(), SIGINT);
  EXPECT_THAT(counts.Await(2), ::testing::ElementsAre(1, 2));
}

TEST(SignalWaiterTest, EndsWithoutASignalAndGivesTheMaskBack) {
  sigset_t before;
  sigemptyset(&before);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  {
    SignalWaiter waiter([](int) { FAIL() << "no signal was sent"; });
  }
  sigset_t after;
  pthread_sigmask(SIG_BLOCK, nullptr, &after);
  EXPECT_EQ(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
  EXPECT_EQ(sigismember(&before, SIGINT), sigismember(&after, SIGINT));
}

}  // namespace
}  // namespace turbofleet
