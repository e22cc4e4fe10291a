// What a worker has for a durable job when its session breaks is not made again: it is offered to the next session.
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/agent/agent_fixture.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr absl::Duration kFirstDelay = absl::Milliseconds(50);

class AgentKeptTest : public AgentTest {
 protected:
  // A batch of images `first`, `first + 1`, ... of a durable job.
  static FakeCoordinator::Batch DurableBatch(uint64_t lease, const std::vector<int>& indexes, bool adopted = false) {
    FakeCoordinator::Batch batch = MakeBatch(lease, static_cast<int>(indexes.size()));
    for (size_t i = 0; i < indexes.size(); ++i) {
      batch.mutable_images(static_cast<int>(i))->set_job("jobs/a");
      batch.mutable_images(static_cast<int>(i))->set_index(indexes[i]);
      batch.mutable_images(static_cast<int>(i))->set_seed(indexes[i]);
    }
    batch.set_adopted(adopted);
    return batch;
  }
  std::vector<int> HeldIn(size_t session) {
    std::vector<int> indexes;
    const FakeCoordinator::Hello hello = coordinator_.hello(session);
    for (const auto& held : hello.held()) {
      EXPECT_EQ(held.job(), "jobs/a");
      indexes.push_back(held.index());
    }
    return indexes;
  }
  void BreakAndDialAgain(size_t session) {
    coordinator_.EndSession(session, grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"));
    ASSERT_TRUE(timer_.Fire(kFirstDelay));
    ASSERT_TRUE(coordinator_.AwaitReports(session + 1, 1));
  }
  static std::vector<std::pair<uint64_t, int>> PlacesOf(const std::vector<FakeCoordinator::Delivered>& deliveries) {
    std::vector<std::pair<uint64_t, int>> places;
    for (const auto& delivered : deliveries) {
      EXPECT_TRUE(delivered.has_image()) << delivered.failure().message();
      places.emplace_back(delivered.lease(), delivered.slot());
    }
    return places;
  }
};

TEST_F(AgentKeptTest, WhatIsOnTheDeviceIsDeliveredToTheNextSession) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, DurableBatch(4, {7, 8}));
  coordinator_.SendBatch(0, DurableBatch(5, {9, 10}));
  ASSERT_TRUE(AwaitReceived(0, 5));
  ASSERT_TRUE(script_.AwaitStarted(1));
  ASSERT_NO_FATAL_FAILURE(BreakAndDialAgain(0));
  // What had not started costs nothing to give up.
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 2));
  EXPECT_THAT(HeldIn(1), UnorderedElementsAre(7, 8));

  coordinator_.SendBatch(1, DurableBatch(1, {8, 7}, /*adopted=*/true));
  ASSERT_TRUE(AwaitReceived(1, 1));
  script_.LetAllGo();
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  EXPECT_THAT(PlacesOf(coordinator_.deliveries()), UnorderedElementsAre(std::pair(1, 0), std::pair(1, 1)));
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 2));
  EXPECT_THAT(script_.started(), SizeIs(1)) << "nothing is rendered twice";
  EXPECT_TRUE(observer_.AwaitEmptyBacklog());
  // It was not taken against the credit, and earns none.
  ASSERT_TRUE(TriggerReport(1));
  EXPECT_TRUE(AwaitLeases(1, {}, 2));
}

TEST_F(AgentKeptTest, WhatWasNotAcknowledgedIsDeliveredAgainUnderAnyLease) {
  StartAndAwaitSession();
  coordinator_.SetAcknowledging(false);
  coordinator_.SendBatch(0, DurableBatch(4, {7}));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  ASSERT_NO_FATAL_FAILURE(BreakAndDialAgain(0));
  EXPECT_THAT(HeldIn(1), ElementsAre(7));
  coordinator_.SetAcknowledging(true);
  coordinator_.SendBatch(1, DurableBatch(1, {7}));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  const std::vector<FakeCoordinator::Delivered> deliveries = coordinator_.deliveries();
  EXPECT_THAT(PlacesOf(deliveries), ElementsAre(std::pair(4, 0), std::pair(1, 0)));
  EXPECT_EQ(deliveries[0].image().content(), deliveries[1].image().content());
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 1));
  EXPECT_THAT(script_.started(), SizeIs(1));
}

TEST_F(AgentKeptTest, ASecondBreakKeepsWhatTheFirstOneKept) {
  StartAndAwaitSession();
  coordinator_.SetAcknowledging(false);
  coordinator_.SendBatch(0, DurableBatch(4, {7}));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  ASSERT_NO_FATAL_FAILURE(BreakAndDialAgain(0));
  coordinator_.SendBatch(1, DurableBatch(1, {7}, /*adopted=*/true));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  ASSERT_TRUE(TriggerReport(1));  // A session that lived this long starts the delays anew.
  ASSERT_NO_FATAL_FAILURE(BreakAndDialAgain(1));
  EXPECT_THAT(HeldIn(2), ElementsAre(7));
}

TEST_F(AgentKeptTest, AnAdoptedImageThatIsNotHeldIsGivenBackUntried) {
  StartAndAwaitSession();
  coordinator_.SendBatch(0, DurableBatch(4, {7}, /*adopted=*/true));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  EXPECT_EQ(coordinator_.deliveries()[0].failure().code(), static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_THAT(script_.started(), IsEmpty());
}

TEST_F(AgentKeptTest, ImagesOfCallsGoWithTheirSession) {
  StartAndAwaitSession();
  coordinator_.SetAcknowledging(false);
  coordinator_.SendBatch(0, MakeBatch(4, 1));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  ASSERT_NO_FATAL_FAILURE(BreakAndDialAgain(0));
  EXPECT_THAT(HeldIn(1), IsEmpty());
}

}  // namespace
}  // namespace turbofleet
