// What the scheduler keeps in memory, counted at the allocator of this program.
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <new>
#include <random>

#include "coordinator/scheduler/scheduler.h"
#include "gtest/gtest.h"
#include "tests/coordinator/scheduler_fixture.h"
#include "tests/support/status_matchers.h"

namespace {

constexpr size_t kHeader = 16;  // Keeps blocks aligned as operator new has to.
int64_t bytes_live = 0;

}  // namespace

void* operator new(size_t size) {
  auto* const block = static_cast<char*>(std::malloc(size + kHeader));
  if (block == nullptr) std::abort();
  *reinterpret_cast<size_t*>(block) = size;
  bytes_live += static_cast<int64_t>(size);
  return block + kHeader;
}

void operator delete(void* pointer) noexcept {
  if (pointer == nullptr) return;
  char* const block = static_cast<char*>(pointer) - kHeader;
  bytes_live -= static_cast<int64_t>(*reinterpret_cast<size_t*>(block));
  std::free(block);
}

void operator delete(void* pointer, size_t) noexcept { operator delete(pointer); }

namespace turbofleet {
namespace {

// The largest job there can be takes no more than what is with workers.
TEST(SchedulerMemoryTest, AJobTakesMemoryByWhatIsInFlight) {
  Scheduler scheduler({.batches_held_max = 1'000'000});
  Effects effects;
  scheduler.OpenSession(SessionId{1}, Worker(32), At(0));
  JobPlacement placement = JobOf(JobId{1}, 0);
  (void)scheduler.Submit(placement, At(0));
  const int64_t before = bytes_live;
  scheduler.AddImages(JobId{1}, 0, 2'147'483'647, {}, At(0));
  EXPECT_EQ(scheduler.Queued(JobId{1}), 2'147'483'647);
  std::mt19937 random(1);
  std::deque<Lease> held;
  for (int64_t i = 1; i <= 50'000; ++i) {
    WorkerReport report = {.batches_taken_max = i};
    for (const Lease& lease : held) report.leases.push_back(lease.id);
    if (!held.empty()) report.last_lease_received = held.back().id;
    TURBOFLEET_ASSERT_OK(scheduler.Report(SessionId{1}, report, At(0), &effects));
    for (const Lease& lease : scheduler.Assign(At(0))) held.push_back(lease);
    if (held.size() < 4) continue;
    for (int32_t slot = 0; slot < 32; ++slot) {
      const Outcome outcome = random() % 8 == 0 ? Outcome::kFailed : Outcome::kRendered;
      scheduler.Deliver(SessionId{1}, held.front().id, slot, outcome, absl::ZeroDuration(), At(0));
    }
    held.pop_front();
  }
  EXPECT_LT(bytes_live, before + 50'000);
}

// Jobs that have nothing to do are many in a coordinator that people trust overnight.
TEST(SchedulerMemoryTest, AJobThatWaitsTakesLessThanAKilobyte) {
  Scheduler scheduler({});
  (void)scheduler.Submit(JobOf(JobId{1}, 0), At(0));
  const int64_t before = bytes_live;
  for (uint64_t id = 2; id <= 10'001; ++id) (void)scheduler.Submit(JobOf(JobId{id}, 0), At(0));
  EXPECT_LT((bytes_live - before) / 10'000, 1'000);
  for (uint64_t id = 2; id <= 10'001; ++id) scheduler.Cancel(JobId{id});
  EXPECT_LE(bytes_live, before);
}

}  // namespace
}  // namespace turbofleet
