#include "coordinator/dispatch/store_queue.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "coordinator/dispatch/io_pool.h"
#include "tests/coordinator/coordinator_node.h"
#include "tests/support/simulated_clock.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;

class StoreQueueTest : public ::testing::Test {
 protected:
  SimulatedClock clock_;
  FaultyJobStore store_{std::make_shared<InMemoryDatabase>(clock_, absl::Seconds(5)),
                        InMemoryJobStore::Options{.incarnation = "1"}};
  MemoryDisk disk_;
  MemorySpool spool_{&disk_, "1"};
};

TEST_F(StoreQueueTest, RunsWhatWaitsInOneTransactionAndInOrder) {
  StoreQueue queue({.pieces_max = 3}, &store_, &spool_);
  EXPECT_FALSE(queue.RunOnce());
  int transactions = 0;
  store_.next_fault = [&] {
    ++transactions;
    return FaultyJobStore::Fault::kNone;
  };
  std::vector<std::string> seen;
  for (int i = 0; i < 4; ++i) {
    queue.Post([&, i](JobStore&, Spool&) { seen.push_back(absl::StrCat("work", i)); },
               [&, i](const absl::Status& status) { seen.push_back(absl::StrCat("done", i, status.ok())); });
  }
  EXPECT_EQ(queue.waiting(), 4u);
  EXPECT_TRUE(queue.RunOnce());
  EXPECT_THAT(seen, ElementsAre("work0", "work1", "work2", "done01", "done11", "done21"));
  EXPECT_EQ(transactions, 1);
  EXPECT_TRUE(queue.RunOnce());
  EXPECT_FALSE(queue.RunOnce());
  EXPECT_EQ(transactions, 2);
  EXPECT_EQ(queue.failed(), 0);
}

TEST_F(StoreQueueTest, PicturesAreSyncedBeforeTheTransactionIsDurable) {
  StoreQueue queue({}, &store_, &spool_);
  std::vector<absl::Status> told;
  const auto append = [](JobStore&, Spool& spool) { EXPECT_THAT(spool.Append("job", 0, "abc"), IsOk()); };
  queue.Post(append, [&](const absl::Status& status) { told.push_back(status); });
  disk_.sync_fails = true;
  queue.RunOnce();
  disk_.sync_fails = false;
  queue.Post(append, [&](const absl::Status& status) {
    told.push_back(status);
    EXPECT_EQ(disk_.packs.begin()->second.synced, 6u);
  });
  queue.RunOnce();
  EXPECT_THAT(told, ElementsAre(StatusIs(absl::StatusCode::kUnavailable), IsOk()));
  EXPECT_EQ(queue.failed(), 1);
}

TEST_F(StoreQueueTest, OneFailedTransactionFailsAllThatWasInIt) {
  StoreQueue queue({}, &store_, &spool_);
  store_.next_fault = [] { return FaultyJobStore::Fault::kBefore; };
  int failed = 0;
  for (int i = 0; i < 3; ++i) {
    queue.Post([](JobStore&, Spool&) {}, [&](const absl::Status& status) { failed += status.ok() ? 0 : 1; });
  }
  queue.RunOnce();
  EXPECT_EQ(failed, 3);
}

TEST_F(StoreQueueTest, StopFinishesWhatWaitsAndWhatFollowsFromIt) {
  StoreQueue queue({}, &store_, &spool_);
  queue.Start();
  std::atomic<int> done = 0;
  for (int i = 0; i < 100; ++i) {
    queue.Post(
        [](JobStore&, Spool&) {},
        [&](const absl::Status&) { queue.Post([](JobStore&, Spool&) {}, [&](const absl::Status&) { ++done; }); });
  }
  queue.Stop();
  EXPECT_EQ(done, 100);
  EXPECT_EQ(queue.waiting(), 0u);
}

TEST(IoPoolTest, RunsInOrderAndBesideEachOther) {
  std::vector<int> order;
  {
    IoPool one(1);
    for (int i = 0; i < 5; ++i) one.Run([&order, i] { order.push_back(i); });
  }  // Which runs what waits.
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  IoPool two(2);
  absl::Notification first, second;
  absl::BlockingCounter both(2);
  // Each waits for the other.
  two.Run([&] {
    first.Notify();
    second.WaitForNotification();
    both.DecrementCount();
  });
  two.Run([&] {
    second.Notify();
    first.WaitForNotification();
    both.DecrementCount();
  });
  both.Wait();
}

}  // namespace
}  // namespace turbofleet
