#include "worker/agent/agent.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/images/codec.h"
#include "common/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/agent/agent_fixture.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// With a random number of 0, the first back-off is half of the first delay, and so on.
constexpr absl::Duration kFirstDelay = absl::Milliseconds(50);
constexpr absl::Duration kSecondDelay = absl::Milliseconds(100);

std::vector<std::pair<uint64_t, int>> SlotsOf(const std::vector<FakeCoordinator::Delivered>& deliveries) {
  std::vector<std::pair<uint64_t, int>> slots;
  for (const auto& delivered : deliveries) slots.emplace_back(delivered.lease(), delivered.slot());
  return slots;
}

TEST_F(AgentTest, SaysWhoItIsAndTakesOneBatchAhead) {
  StartAndAwaitSession();
  const FakeCoordinator::Hello hello = coordinator_.hello(0);
  EXPECT_EQ(hello.worker(), "anna");
  EXPECT_EQ(hello.version(), "1.2.3");
  EXPECT_EQ(hello.model_name(), "scripted");
  EXPECT_EQ(hello.model_digest(), script_.info.model_digest);
  EXPECT_EQ(hello.device(), "cpu");
  EXPECT_EQ(hello.device_name(), "a script");
  EXPECT_EQ(hello.precision(), "float32");
  EXPECT_EQ(hello.default_width(), 64);
  EXPECT_EQ(hello.default_height(), 64);
  EXPECT_EQ(hello.size_max(), 128);
  EXPECT_EQ(hello.batch_images_max(), 4);
  EXPECT_FALSE(hello.has_tiny_vae());
  EXPECT_EQ(hello.incarnation(), std::string(32, '7'));
  EXPECT_TRUE(agent_->ready());

  // Two batches fit: one on the device, one behind it. A third is earned when the first leaves the device.
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(5, 2));
  coordinator_.SendBatch(0, MakeBatch(6, 1));
  ASSERT_TRUE(script_.AwaitStarted(1));
  ASSERT_TRUE(AwaitReceived(0, 6));
  ASSERT_TRUE(AwaitLeases(0, {5, 6}, 2));
  script_.LetOneGo();
  ASSERT_TRUE(script_.AwaitStarted(2));
  EXPECT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.batches_taken_max() == 3; }));
}

TEST_F(AgentTest, DeliversWhatTheEngineMade) {
  StartAndAwaitSession();
  FakeCoordinator::Batch batch = MakeBatch(1, 2);
  batch.mutable_images(0)->set_slot(7);
  coordinator_.SendBatch(0, batch);
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  const std::string pixels(64 * 64 * 3, static_cast<char>(10));
  for (const auto& delivered : coordinator_.deliveries()) {
    EXPECT_EQ(delivered.session(), "a session");
    EXPECT_EQ(delivered.lease(), 1u);
    ASSERT_TRUE(delivered.has_image());
    EXPECT_EQ(delivered.image().batch_size(), 2);
    EXPECT_EQ(delivered.image().prompt_tokens_cut(), 3);
    EXPECT_EQ(delivered.image().unet().nanos(), 5'000'000);
    if (delivered.slot() != 7) continue;
    EXPECT_EQ(delivered.image().content(), pixels);
    EXPECT_EQ(delivered.image().pixel_sha256(), Sha256Hex(pixels.data(), pixels.size()));
  }
  EXPECT_THAT(SlotsOf(coordinator_.deliveries()), UnorderedElementsAre(std::pair(1, 7), std::pair(1, 1)));
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 2));
  EXPECT_TRUE(observer_.AwaitEmptyBacklog());
  ASSERT_TRUE(TriggerReport(0));
  EXPECT_TRUE(AwaitLeases(0, {}, 3));
}

TEST_F(AgentTest, PromptsAreNotLogged) {
  StartAndAwaitSession();
  script_.FailSeed(10, absl::InternalError("not finite"));
  coordinator_.SendBatch(0, MakeBatch(1, 2));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  EXPECT_THAT(logger_.text(), HasSubstr("image_failed"));
  EXPECT_THAT(logger_.text(), Not(HasSubstr("secret")));
}

TEST_F(AgentTest, AFailedImageIsDeliveredAsAFailureAndTheOthersGoOn) {
  StartAndAwaitSession();
  script_.FailSeed(10, absl::InvalidArgumentError("prompt: too odd"));
  script_.FailSeed(11, absl::ResourceExhaustedError("no memory"));
  script_.FailSeed(12, absl::InternalError(std::string(5000, 'x') + "\xff"));
  coordinator_.SendBatch(0, MakeBatch(1, 4));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(4));
  for (const auto& delivered : coordinator_.deliveries()) {
    switch (delivered.slot()) {
      case 0:
        EXPECT_EQ(delivered.failure().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
        EXPECT_EQ(delivered.failure().message(), "prompt: too odd");
        break;
      case 1:
        EXPECT_EQ(delivered.failure().code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
        EXPECT_EQ(delivered.failure().reason(), "DEVICE_OUT_OF_MEMORY");
        break;
      case 2:
        EXPECT_EQ(delivered.failure().code(), static_cast<int>(absl::StatusCode::kInternal));
        EXPECT_LT(delivered.failure().message().size(), 1100u);
        break;
      default:
        EXPECT_TRUE(delivered.has_image());
    }
  }
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kFailed, 3));
  EXPECT_TRUE(agent_->ready());
}

TEST_F(AgentTest, APictureThatCameTooLateCountsAsRefused) {
  coordinator_.SetAccepting(false);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeBatch(1, 1));
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kRefused, 1));
}

// What waits behind the batch on the device never reaches it.
TEST_F(AgentTest, WorkThatIsAbandonedBeforeRenderingIsNotRendered) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 1));
  coordinator_.SendBatch(0, MakeBatch(2, 2));
  ASSERT_TRUE(script_.AwaitStarted(1));
  coordinator_.SendAbandon(0, 2, {0});
  ASSERT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 1));
  script_.LetAllGo();
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  ASSERT_THAT(script_.started(), SizeIs(2));
  ASSERT_THAT(script_.started()[1].requests, SizeIs(1));
  EXPECT_EQ(script_.started()[1].requests[0].seed, 21u);
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 2));
}

TEST_F(AgentTest, ABatchThatIsAbandonedAsAWholeEarnsCreditWithoutTheDevice) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 1));
  coordinator_.SendBatch(0, MakeBatch(2, 2));
  ASSERT_TRUE(script_.AwaitStarted(1));
  coordinator_.SendAbandon(0, 2, {});
  ASSERT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 2));
  script_.LetAllGo();
  EXPECT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.batches_taken_max() == 4; }));
  EXPECT_THAT(script_.started(), SizeIs(1));
}

// The engine looks at each sampler step.
TEST_F(AgentTest, WorkThatIsAbandonedOnTheDeviceStopsAtTheNextStep) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 3));
  ASSERT_TRUE(script_.AwaitStarted(1));
  coordinator_.SendAbandon(0, 1, {});
  ASSERT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 3));
  script_.Step();
  ASSERT_TRUE(script_.AwaitEnded(1));
  EXPECT_TRUE(AwaitLeases(0, {}, 3));
  EXPECT_THAT(coordinator_.deliveries(), SizeIs(0));
}

TEST_F(AgentTest, AnAbandonedImageThatIsFinishedAnywayIsNotDelivered) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 2));
  ASSERT_TRUE(script_.AwaitStarted(1));
  coordinator_.SendAbandon(0, 1, {0});
  // Of leases that it does not hold it wants to know nothing.
  coordinator_.SendAbandon(0, 77, {});
  ASSERT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 1));
  script_.LetAllGo();
  ASSERT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 1));
  ASSERT_TRUE(observer_.AwaitEmptyBacklog());
  EXPECT_THAT(SlotsOf(coordinator_.deliveries()), ElementsAre(std::pair(1, 1)));
}

TEST_F(AgentTest, ABrokenSessionDropsItsWorkAndIsDialedAgainWithTheEngineWarm) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(4, 2));
  coordinator_.SendBatch(0, MakeBatch(5, 2));
  ASSERT_TRUE(AwaitReceived(0, 5));
  ASSERT_TRUE(script_.AwaitStarted(1));
  coordinator_.EndSession(0, grpc::Status(grpc::StatusCode::UNAVAILABLE, "shutting down"));
  ASSERT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 4));
  ASSERT_TRUE(timer_.Fire(kFirstDelay));
  ASSERT_TRUE(coordinator_.AwaitReport(1, [](const auto& report) { return report.batches_taken_max() == 2; }));
  EXPECT_EQ(coordinator_.reports(1).back().last_lease_received(), 0u);
  EXPECT_THAT(coordinator_.reports(1).back().leases(), SizeIs(0));
  EXPECT_TRUE(agent_->ready());

  // The old batch is still on the device; neither it nor what waited behind it is delivered or earns anything here.
  // Leases of a new coordinator may start from below.
  coordinator_.SendBatch(1, MakeBatch(1, 1));
  script_.LetAllGo();
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  ASSERT_TRUE(coordinator_.AwaitReport(1, [](const auto& report) { return report.batches_taken_max() == 3; }));
  EXPECT_THAT(SlotsOf(coordinator_.deliveries()), ElementsAre(std::pair(1, 0)));
  EXPECT_THAT(script_.started(), SizeIs(2));
  EXPECT_TRUE(observer_.AwaitEmptyBacklog());
}

TEST_F(AgentTest, DialsWithABackOffThatASessionOfSomeLengthResets) {
  coordinator_.EndNextHello(grpc::Status(grpc::StatusCode::UNAVAILABLE, "not yet"));
  StartAgent();
  ASSERT_TRUE(coordinator_.AwaitSessions(1));
  coordinator_.EndNextHello(grpc::Status(grpc::StatusCode::UNAVAILABLE, "not yet"));
  ASSERT_TRUE(timer_.Fire(kFirstDelay));
  ASSERT_TRUE(coordinator_.AwaitSessions(2));
  ASSERT_TRUE(timer_.Fire(kSecondDelay));
  ASSERT_TRUE(coordinator_.AwaitReports(2, 1));
  // This one broke at once, so the delays go on to grow.
  coordinator_.EndSession(2, grpc::Status(grpc::StatusCode::UNAVAILABLE, "again"));
  ASSERT_TRUE(timer_.Fire(2 * kSecondDelay));
  ASSERT_TRUE(coordinator_.AwaitReports(3, 1));
  ASSERT_TRUE(TriggerReport(3));
  coordinator_.EndSession(3, grpc::Status(grpc::StatusCode::UNAVAILABLE, "again"));
  EXPECT_TRUE(timer_.Fire(kFirstDelay));
  EXPECT_TRUE(coordinator_.AwaitReports(4, 1));
}

TEST_F(AgentTest, ACoordinatorThatDoesNotWelcomeIsLeft) {
  coordinator_.SetSilent(true);
  StartAgent();
  ASSERT_TRUE(coordinator_.AwaitSessions(1));
  EXPECT_FALSE(agent_->ready());
  ASSERT_TRUE(timer_.Fire(options_.welcome_timeout));
  ASSERT_TRUE(coordinator_.AwaitOver(0));
  coordinator_.SetSilent(false);
  ASSERT_TRUE(timer_.Fire(kFirstDelay));
  EXPECT_TRUE(coordinator_.AwaitReports(1, 1));
}

TEST_F(AgentTest, ANewerSessionOfTheSameWorkerIsTheEnd) {
  StartAndAwaitSession();
  coordinator_.EndSession(0, grpc::Status(grpc::StatusCode::ALREADY_EXISTS, "a newer session"));
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kSuperseded);
  EXPECT_THAT(end->second, StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_FALSE(agent_->ready());
}

// Nothing that the network took counts as delivered before it is acknowledged.
TEST_F(AgentTest, WhatABrokenDeliveryStreamLeftUnacknowledgedIsSentAgain) {
  coordinator_.SetAcknowledging(false);
  coordinator_.SetDeliveriesPerStream(3);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeBatch(1, 3));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(3));
  coordinator_.SetDeliveriesPerStream(0);
  coordinator_.SetAcknowledging(true);
  ASSERT_TRUE(timer_.Fire(kFirstDelay));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(6));
  const std::vector<std::pair<uint64_t, int>> slots = SlotsOf(coordinator_.deliveries());
  EXPECT_EQ(std::vector(slots.begin(), slots.begin() + 3), std::vector(slots.begin() + 3, slots.end()));
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 3));
  EXPECT_TRUE(observer_.AwaitEmptyBacklog());
  EXPECT_EQ(coordinator_.sessions(), 1u);
}

TEST_F(AgentTest, ADeliveryStreamThatNeverWorksCostsTheSession) {
  coordinator_.SetAcknowledging(false);
  coordinator_.SetDeliveriesPerStream(1);
  options_.delivery_failures_max = 2;
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeBatch(1, 1));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  ASSERT_TRUE(timer_.Fire(kFirstDelay));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  EXPECT_TRUE(coordinator_.AwaitOver(0));
  ASSERT_TRUE(timer_.Fire(kFirstDelay));
  EXPECT_TRUE(coordinator_.AwaitReports(1, 1));
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAbandoned, 1));
  EXPECT_TRUE(observer_.AwaitEmptyBacklog());
}

TEST_F(AgentTest, DrainFinishesDeliversAndWaitsForAcknowledgements) {
  coordinator_.SetAcknowledging(false);
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 1));
  coordinator_.SendBatch(0, MakeBatch(2, 1));
  ASSERT_TRUE(script_.AwaitStarted(1));
  agent_->Drain();
  ASSERT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.draining(); }));
  EXPECT_FALSE(agent_->ready());
  script_.LetAllGo();
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  ASSERT_TRUE(script_.AwaitEnded(2));
  // It stays until its last result is acknowledged, and earns nothing meanwhile.
  ASSERT_TRUE(TriggerReport(0));
  EXPECT_TRUE(AwaitLeases(0, {1, 2}, 2));
  coordinator_.AcknowledgeAll();
  ASSERT_TRUE(coordinator_.AwaitLeft(0));
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kDrained);
  TURBOFLEET_EXPECT_OK(end->second);
  EXPECT_TRUE(observer_.AwaitOutcomes(ImageOutcome::kAccepted, 2));
}

TEST_F(AgentTest, DrainOfAnIdleWorkerTellsTheCoordinatorFirst) {
  StartAndAwaitSession();
  agent_->Drain();
  agent_->Drain();
  ASSERT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.draining(); }));
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kDrained);
}

TEST_F(AgentTest, DrainWithoutASessionEndsAtOnce) {
  script_.HoldWarmUp();
  StartAgent();
  EXPECT_FALSE(agent_->ready());
  agent_->Drain();
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kDrained);
  EXPECT_TRUE(agent_->device_busy());
  EXPECT_EQ(coordinator_.sessions(), 0u);
}

TEST_F(AgentTest, DrainWhileTheCoordinatorIsAwayEndsAtOnce) {
  coordinator_.EndNextHello(grpc::Status(grpc::StatusCode::UNAVAILABLE, "not yet"));
  StartAgent();
  ASSERT_TRUE(coordinator_.AwaitSessions(1));
  ASSERT_TRUE(coordinator_.AwaitOver(0));
  agent_->Drain();
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kDrained);
}

// The coordinator tells a hung device from an idle one by the progress, which only the device's thread feeds.
TEST_F(AgentTest, ProgressStandsStillWhileTheEngineHangsAndOnlyThen) {
  StartAndAwaitSession();
  const auto progress = [this] { return coordinator_.reports(0).back().progress(); };
  const uint64_t at_start = progress();
  ASSERT_TRUE(TriggerReport(0));
  // The thread shows its life after being asked, so a report or two later it is seen.
  for (int i = 0; i < 1000 && progress() == at_start; ++i) ASSERT_TRUE(TriggerReport(0));
  EXPECT_GT(progress(), at_start);

  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 1));
  ASSERT_TRUE(script_.AwaitStarted(1));
  ASSERT_TRUE(TriggerReport(0));
  const uint64_t hung = progress();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(TriggerReport(0));
  EXPECT_EQ(progress(), hung);
  EXPECT_TRUE(AwaitLeases(0, {1}, 2));

  script_.LetAllGo();
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  EXPECT_TRUE(coordinator_.AwaitReport(0, [&](const auto& report) { return report.progress() > hung; }));
}

TEST_F(AgentTest, AStartPictureIsFetchedOnceAndReachesTheEngineResized) {
  RgbImage picture = {.width = 32, .height = 16, .pixels = std::vector<uint8_t>(32 * 16 * 3, 9)};
  const std::string file = *EncodeImage(picture, {});
  const std::string sha256 = Sha256Hex(file.data(), file.size());
  coordinator_.AddInput(sha256, file);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeImageToImageBatch(1, 2, sha256));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  coordinator_.SendBatch(0, MakeImageToImageBatch(2, 2, sha256));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(4));
  EXPECT_EQ(coordinator_.input_calls(), 1);
  const RenderBatch batch = script_.started().front();
  EXPECT_EQ(batch.shape.first_step, 1);
  ASSERT_NE(batch.requests[0].init_image, nullptr);
  EXPECT_EQ(batch.requests[0].init_image->width, 64);
  EXPECT_EQ(batch.requests[0].init_image->height, 64);
  EXPECT_EQ(batch.requests[0].init_image, script_.started()[1].requests[1].init_image);
}

TEST_F(AgentTest, AnUndecodableStartPictureFailsItsImagesForGood) {
  const std::string file = "this is no picture";
  const std::string sha256 = Sha256Hex(file.data(), file.size());
  coordinator_.AddInput(sha256, file);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeImageToImageBatch(1, 2, sha256));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  for (const auto& delivered : coordinator_.deliveries()) {
    EXPECT_EQ(delivered.failure().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(delivered.failure().message(), HasSubstr("init_image: "));
  }
  // The batch never reached the device, and makes room all the same.
  EXPECT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.batches_taken_max() == 3; }));
  EXPECT_THAT(script_.started(), SizeIs(0));
}

TEST_F(AgentTest, AStartPictureThatCannotBeHadFailsForThisTimeOnly) {
  const std::string asked(64, 'e');
  coordinator_.AddInput(asked, "another file than the one of that digest");
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeImageToImageBatch(1, 1, std::string(64, 'd')));
  coordinator_.SendBatch(0, MakeImageToImageBatch(2, 1, asked));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  for (const auto& delivered : coordinator_.deliveries()) {
    const absl::StatusCode expected =
        delivered.lease() == 1 ? absl::StatusCode::kNotFound : absl::StatusCode::kDataLoss;
    EXPECT_EQ(delivered.failure().code(), static_cast<int>(expected));
  }
}

// Encoded or not, what is behind the device is bounded by not asking for more.
TEST_F(AgentTest, ABacklogWithholdsCreditUntilItIsAcknowledged) {
  options_.ledger.backlog_images_max = 3;
  coordinator_.SetAcknowledging(false);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeBatch(1, 3));
  ASSERT_TRUE(observer_.AwaitDelivering(3));
  ASSERT_TRUE(AwaitLeases(0, {1}, 3));  // Three are just within the limit.
  coordinator_.SendBatch(0, MakeBatch(2, 1));
  coordinator_.SendBatch(0, MakeBatch(3, 1));
  ASSERT_TRUE(observer_.AwaitDelivering(5));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(5));
  ASSERT_TRUE(script_.AwaitEnded(3));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(TriggerReport(0));
  EXPECT_EQ(coordinator_.reports(0).back().batches_taken_max(), 3);
  coordinator_.AcknowledgeAll();
  EXPECT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.batches_taken_max() == 5; }));
}

TEST_F(AgentTest, ABacklogInBytesWithholdsCreditToo) {
  options_.ledger.backlog_bytes_max = 64 * 64 * 3;  // One raw picture.
  coordinator_.SetAcknowledging(false);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeBatch(1, 2));
  ASSERT_TRUE(observer_.AwaitDelivering(2));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(2));
  ASSERT_TRUE(script_.AwaitEnded(1));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(TriggerReport(0));
  EXPECT_EQ(coordinator_.reports(0).back().batches_taken_max(), 2);
  coordinator_.AcknowledgeAll();
  EXPECT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.batches_taken_max() == 3; }));
}

TEST_F(AgentTest, ADeviceFailureDeliversWhatItCanGivesBackTheRestAndIsTheEnd) {
  StartAndAwaitSession();
  script_.Hold();
  coordinator_.SendBatch(0, MakeBatch(1, 3));
  coordinator_.SendBatch(0, MakeBatch(2, 2));
  ASSERT_TRUE(script_.AwaitStarted(1));
  ASSERT_TRUE(AwaitReceived(0, 2));
  ASSERT_TRUE(AwaitLeases(0, {1, 2}, 2));
  script_.FailDevice(absl::InternalError("Xid 79: the GPU has fallen off the bus"), /*images=*/1);
  script_.LetOneGo();
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kDeviceFailed);
  EXPECT_THAT(end->second, StatusIs(absl::StatusCode::kInternal, HasSubstr("Xid 79")));
  int images = 0;
  for (const auto& delivered : coordinator_.deliveries()) {
    EXPECT_EQ(delivered.lease(), 1u);
    images += delivered.has_image() ? 1 : 0;
    if (delivered.has_failure()) {
      EXPECT_EQ(delivered.failure().code(), static_cast<int>(absl::StatusCode::kUnavailable));
      EXPECT_EQ(delivered.failure().reason(), "DEVICE_FAILED");
    }
  }
  EXPECT_EQ(images, 1);
  EXPECT_THAT(coordinator_.deliveries(), SizeIs(3));
  const FakeCoordinator::Report last = coordinator_.reports(0).back();
  EXPECT_TRUE(last.draining());
  EXPECT_EQ(last.last_lease_received(), 2u);
  EXPECT_THAT(std::set<uint64_t>(last.leases().begin(), last.leases().end()), Not(testing::Contains(2u)));
  EXPECT_THAT(script_.started(), SizeIs(1));
}

TEST_F(AgentTest, AnEngineThatDoesNotWarmUpIsADeviceFailure) {
  script_.FinishWarmUp(absl::ResourceExhaustedError("no memory"));
  StartAgent();
  const auto end = end_.Await();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->first, AgentEnd::kDeviceFailed);
  EXPECT_THAT(end->second, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("warming up")));
  EXPECT_EQ(coordinator_.sessions(), 0u);
}

TEST_F(AgentTest, DialsOnlyOnceTheEngineIsWarm) {
  script_.HoldWarmUp();
  StartAgent();
  EXPECT_FALSE(agent_->ready());
  EXPECT_EQ(coordinator_.sessions(), 0u);
  script_.FinishWarmUp(absl::OkStatus());
  EXPECT_TRUE(coordinator_.AwaitReports(0, 1));
  EXPECT_TRUE(agent_->ready());
}

TEST_F(AgentTest, SeveralDevicesShareTheEncodersAndTheStartPictures) {
  EngineScript script2;
  EndWaiter end2;
  StartAndAwaitSession();
  Agent::Options options2 = options_;
  options2.worker = "anna/2";
  options2.device = "cuda:2";
  const std::unique_ptr<Agent> agent2 = MakeAgent(options2, &script2, &end2);
  ASSERT_TRUE(coordinator_.AwaitReports(1, 1));
  EXPECT_EQ(coordinator_.hello(1).worker(), "anna/2");
  EXPECT_EQ(coordinator_.hello(1).device(), "cuda:2");
  coordinator_.SendBatch(0, MakeBatch(1, 2));
  coordinator_.SendBatch(1, MakeBatch(2, 2));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(4));
  EXPECT_THAT(script_.started(), SizeIs(1));
  EXPECT_THAT(script2.started(), SizeIs(1));

  // One that ends takes nothing from the other.
  agent_->Drain();
  ASSERT_TRUE(end_.Await().has_value());
  coordinator_.SendBatch(1, MakeBatch(3, 1));
  EXPECT_TRUE(coordinator_.AwaitDeliveries(5));
}

TEST_F(AgentTest, EndsAtOnceInTheMiddleOfEverything) {
  coordinator_.SetAcknowledging(false);
  StartAndAwaitSession();
  coordinator_.SendBatch(0, MakeBatch(1, 4));
  ASSERT_TRUE(coordinator_.AwaitDeliveries(1));
  coordinator_.SendBatch(0, MakeBatch(2, 4));
  agent_.reset();
  EXPECT_TRUE(coordinator_.AwaitOver(0));
}

// A message that one side should not have sent means that the two do not understand each other.
TEST_F(AgentTest, MessagesOutOfOrderOrOutOfLimitsEndTheSessionAndNotTheWorker) {
  using Response = FakeCoordinator::SessionResponse;
  std::vector<std::vector<Response>> cases;
  const auto batch = [](const FakeCoordinator::Batch& message) {
    Response response;
    *response.mutable_batch() = message;
    return response;
  };
  Response welcome;
  welcome.mutable_welcome()->set_session("another");
  cases.push_back({welcome});
  cases.push_back({Response()});
  cases.push_back({batch(MakeBatch(1, 0))});
  cases.push_back({batch(MakeBatch(1, 5))});
  cases.push_back({batch(MakeBatch(0, 1))});
  cases.push_back({batch(MakeBatch(3, 1)), batch(MakeBatch(3, 1))});
  cases.push_back({batch(MakeBatch(3, 1)), batch(MakeBatch(2, 1))});
  cases.push_back({batch(MakeBatch(1, 1)), batch(MakeBatch(2, 1)), batch(MakeBatch(3, 1))});
  FakeCoordinator::Batch twice = MakeBatch(1, 2);
  twice.mutable_images(1)->set_slot(0);
  cases.push_back({batch(twice)});
  FakeCoordinator::Batch odd = MakeBatch(1, 1);
  odd.mutable_shape()->set_width(65);
  cases.push_back({batch(odd)});

  script_.Hold();
  StartAndAwaitSession();
  size_t session = 0;
  for (const std::vector<Response>& messages : cases) {
    SCOPED_TRACE(session);
    for (const Response& message : messages) coordinator_.Send(session, message);
    ASSERT_TRUE(coordinator_.AwaitOver(session));
    ASSERT_TRUE(timer_.Fire(kFirstDelay));
    ASSERT_TRUE(coordinator_.AwaitReports(++session, 1));
    ASSERT_TRUE(TriggerReport(session));  // Keeps the back-off short.
  }
  EXPECT_TRUE(agent_->ready());
  script_.LetAllGo();
  coordinator_.SendBatch(session, MakeBatch(1, 1));
  EXPECT_TRUE(coordinator_.AwaitDeliveries(1));
}

}  // namespace
}  // namespace turbofleet
