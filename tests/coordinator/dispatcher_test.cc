#include "coordinator/dispatch/dispatcher.h"

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/log.h"
#include "common/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_sinks.h"
#include "tests/support/simulated_clock.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

constexpr char kDigest[] = "sha256:a";

MATCHER_P(HasReason, reason, "") { return ReasonOf(internal_status_matchers::StatusOf(arg)) == reason; }

WorkerIdentity Identity(const std::string& name = "anna") {
  return {.name = name,
          .version = "1",
          .model_name = "sd-turbo",
          .model_digest = kDigest,
          .device = "cpu",
          .device_name = "cpu",
          .precision = "float32",
          .default_width = 64,
          .default_height = 96,
          .size_max = 512,
          .batch_images_max = 4,
          .has_tiny_vae = false};
}

JobRequest Request(int32_t count = 1) {
  JobRequest request;
  request.prompts = {"a red circle"};
  request.first_seed = 5;
  request.seeds_per_prompt = count;
  return request;
}

Picture PictureOf(size_t bytes = 100) {
  Picture picture;
  picture.content = std::string(bytes, 'x');
  picture.pixel_sha256 = std::string(64, 'a');
  picture.batch_size = 1;
  return picture;
}

// Counts what it is told.
class CountingObserver : public DispatchObserver {
 public:
  void OnImageFinished(const JobSpec&, const FinishedImage&) override { ++finished; }
  void OnImageFailed(const JobSpec&, const UnfinishedImage&) override { ++failed; }
  void OnImagesCancelled(const JobSpec&, int64_t images) override { cancelled += images; }
  void OnBatch(const BatchToRender& batch) override { leased += static_cast<int64_t>(batch.images.size()); }
  void OnRetry(RetryReason, int64_t images) override { retried += images; }
  void OnLateDelivery() override { ++late; }

  int64_t finished = 0, failed = 0, cancelled = 0, leased = 0, retried = 0, late = 0;
};

class DispatcherTest : public ::testing::Test {
 protected:
  Dispatcher& Make(const Dispatcher::Options& options = {}) {
    dispatcher_ = std::make_unique<Dispatcher>(
        options, Dispatcher::Environment{.clock = &clock_,
                                         .observer = &observer_,
                                         .logger = logger_.get(),
                                         .new_name = [this] { return absl::StrCat("name-", ++names_); },
                                         .new_seed = [this] { return next_seed_; }});
    return *dispatcher_;
  }

  // A worker that has granted `credit` batches.
  std::pair<SessionId, std::shared_ptr<FakeSession>> Join(const WorkerIdentity& identity, int64_t credit) {
    auto sink = std::make_shared<FakeSession>();
    const SessionId id = dispatcher_->OpenSession(identity, sink).value();
    EXPECT_THAT(dispatcher_->Report(id, {.batches_taken_max = credit}), IsOk());
    return {id, sink};
  }

  std::shared_ptr<FakeWatch> Start(JobRequest request) {
    auto watch = std::make_shared<FakeWatch>();
    EXPECT_THAT(dispatcher_->StartJob(std::move(request), watch), IsOk());
    return watch;
  }

  absl::Status Refusal(JobRequest request) {
    auto watch = std::make_shared<FakeWatch>();
    const absl::Status status = dispatcher_->StartJob(std::move(request), watch).status();
    EXPECT_FALSE(watch->id.has_value());
    return status;
  }

  bool Deliver(const FakeSession& worker, LeaseId lease, int32_t slot, RenderOutcome outcome = PictureOf()) {
    return dispatcher_->Deliver(worker.welcome->token, lease, slot, std::move(outcome));
  }

  SimulatedClock clock_;
  CountingObserver observer_;
  std::unique_ptr<Logger> logger_ = MakeNullLogger();
  uint32_t next_seed_ = 0;
  int names_ = 0;
  std::unique_ptr<Dispatcher> dispatcher_;
};

TEST_F(DispatcherTest, AJobRunsFromAdmissionToItsEnd) {
  Make();
  const auto [anna, worker] = Join(Identity(), 1);
  ASSERT_TRUE(worker->welcome.has_value());
  const auto watch = Start(Request(2));
  EXPECT_EQ(watch->spec->shape, (BatchShape{.width = 64, .height = 96}));
  EXPECT_EQ(watch->spec->SeedOf(1), 6u);
  EXPECT_EQ(watch->spec->model_name, "sd-turbo");
  ASSERT_THAT(worker->batches, SizeIs(1));
  const BatchToRender& batch = worker->batches[0];
  ASSERT_THAT(batch.images, SizeIs(2));
  EXPECT_EQ(batch.images[1].spec, watch->spec);
  EXPECT_EQ(batch.images[1].index, 1);
  EXPECT_GT(worker->flushes, 0);

  EXPECT_TRUE(Deliver(*worker, batch.lease, 1));
  ASSERT_THAT(watch->images, SizeIs(1));
  EXPECT_EQ(watch->images[0].index, 1);
  EXPECT_EQ(watch->images[0].worker, "anna");
  EXPECT_EQ(watch->images[0].attempt, 1);
  EXPECT_FALSE(watch->ended.has_value());
  EXPECT_FALSE(Deliver(*worker, batch.lease, 1));  // Twice.
  EXPECT_TRUE(Deliver(*worker, batch.lease, 0));
  EXPECT_THAT(watch->ended, Optional(IsOk()));
  EXPECT_THAT(watch->images, SizeIs(2));
  EXPECT_EQ(observer_.finished, 2);
  EXPECT_EQ(observer_.late, 1);

  // The call is open until the client has it all.
  EXPECT_EQ(dispatcher_->State().calls_open, 1);
  dispatcher_->CloseJob(*watch->id);
  const ClusterState state = dispatcher_->State();
  EXPECT_EQ(state.calls_open, 0);
  EXPECT_EQ(state.images_completed, 2);
  EXPECT_EQ(state.workers.at(0).images_completed, 2);
  EXPECT_EQ(observer_.cancelled, 0);
}

TEST_F(DispatcherTest, SeedsThatAreNotGivenAreDrawnWithinTheirRange) {
  Make();
  Join(Identity(), 0);
  JobRequest request = Request(3);
  request.first_seed.reset();
  next_seed_ = std::numeric_limits<uint32_t>::max();
  const auto drawn = Start(request)->spec;
  for (int32_t i = 0; i < drawn->seeds_per_prompt; ++i) EXPECT_LE(drawn->SeedOf(i), 3u);
  next_seed_ = 77;
  EXPECT_EQ(Start(request)->spec->first_seed, 77u);
}

// ---- Refusals

TEST_F(DispatcherTest, WithoutWorkersAClientIsToldToComeBack) {
  Make();
  const absl::Status status = Refusal(Request());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(status, HasReason("NO_WORKERS"));
  EXPECT_THAT(RetryAfterOf(status), Optional(absl::Seconds(1)));
  // One that leaves counts as none.
  const auto [anna, worker] = Join(Identity(), 1);
  EXPECT_THAT(dispatcher_->Report(anna, {.draining = true}), IsOk());
  EXPECT_THAT(Refusal(Request()), HasReason("NO_WORKERS"));
}

TEST_F(DispatcherTest, WhatNoWorkerServesIsRefusedByName) {
  Make();
  Join(Identity(), 1);
  JobRequest request = Request();
  request.model = "sdxl";
  absl::Status status = Refusal(request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(status, HasReason("MODEL_NOT_SERVED"));

  request = Request();
  request.width = 520;
  status = Refusal(request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("512")));
  EXPECT_THAT(status, HasReason("SIZE_NOT_SERVED"));

  request = Request();
  request.tiny_vae = true;
  status = Refusal(request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(status, HasReason("VAE_NOT_SERVED"));

  // A worker with the VAE but not the size does not help at that size.
  WorkerIdentity small = Identity("bert");
  small.has_tiny_vae = true;
  small.size_max = 128;
  Join(small, 1);
  request.width = 512;
  EXPECT_THAT(Refusal(request), HasReason("VAE_NOT_SERVED"));
  request.width = 128;
  Start(request);
}

TEST_F(DispatcherTest, AModelIsFoundByDigestByNameOrBecauseThereIsOne) {
  Make();
  Join(Identity(), 1);
  WorkerIdentity other = Identity("bert");
  other.model_digest = "sha256:b";
  for (const std::string model : {"", "sd-turbo", kDigest}) {
    JobRequest request = Request();
    request.model = model;
    EXPECT_EQ(Start(request)->spec->model_digest, kDigest);
  }
  Join(other, 1);
  for (const std::string model : {"", "sd-turbo"}) {
    JobRequest request = Request();
    request.model = model;
    const absl::Status status = Refusal(request);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(status, HasReason("MODEL_AMBIGUOUS"));
  }
  JobRequest request = Request();
  request.model = "sha256:b";
  EXPECT_EQ(Start(request)->spec->model_digest, "sha256:b");
}

TEST_F(DispatcherTest, TooManyImagesAreRefusedByField) {
  Make({.images_per_job_max = 10});
  Join(Identity(), 1);
  EXPECT_THAT(Refusal(Request(11)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("count: ")));
  JobRequest request = Request();
  request.prompts = {"a", "b"};
  request.first_seed.reset();
  request.seeds = {1, 2, 3, 4, 5, 6};
  request.seeds_per_prompt = 6;
  EXPECT_THAT(Refusal(request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("seeds: ")));
  // The number is checked before anything of that size is made.
  EXPECT_THAT(Refusal(Request(std::numeric_limits<int32_t>::max())), HasReason("INVALID_FIELD"));
  Start(Request(10));
}

TEST_F(DispatcherTest, AFullQueueTellsWhichLimitAndWhenToComeBack) {
  Make({.scheduler = {.images_queued_max = 5}, .images_per_job_max = 5, .retry_after = absl::Seconds(3)});
  Join(Identity(), 0);
  const auto first = Start(Request(4));
  const absl::Status status = Refusal(Request(2));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("images_queued_max")));
  EXPECT_THAT(status, HasReason("QUEUE_FULL"));
  EXPECT_THAT(RetryAfterOf(status), Optional(absl::Seconds(3)));
  dispatcher_->CloseJob(*first->id);
  EXPECT_EQ(observer_.cancelled, 4);
  Start(Request(2));
}

// A client that does not take its last images holds a place, or thousands of them would hold all memory.
TEST_F(DispatcherTest, CallsThatAreStillBeingSentCountAsJobs) {
  Make({.scheduler = {.jobs_max = 1}});
  const auto [anna, worker] = Join(Identity(), 1);
  const auto watch = Start(Request());
  EXPECT_TRUE(Deliver(*worker, worker->batches.at(0).lease, 0));
  EXPECT_THAT(watch->ended, Optional(IsOk()));
  EXPECT_THAT(Refusal(Request()), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("jobs_max")));
  dispatcher_->CloseJob(*watch->id);
  Start(Request());
}

// ---- Start pictures

TEST_F(DispatcherTest, StartPicturesAreKeptWhileAJobUsesThem) {
  Make({.input_bytes_max = 10});
  Join(Identity(), 0);
  JobRequest request = Request();
  request.init_image = "eight by";
  request.steps = 2;
  request.first_step = 1;
  const auto first = Start(request);
  const auto second = Start(request);
  const std::string sha256 = Sha256Hex("eight by", 8);
  EXPECT_EQ(first->spec->init_image_sha256, sha256);
  EXPECT_TRUE(first->spec->shape.image_to_image);
  EXPECT_EQ(**dispatcher_->FindInput(sha256), "eight by");

  JobRequest other = request;
  other.init_image = "another";
  EXPECT_THAT(Refusal(other), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("input_bytes_max")));
  dispatcher_->CloseJob(*first->id);
  EXPECT_THAT(dispatcher_->FindInput(sha256), IsOk());
  dispatcher_->CloseJob(*second->id);
  EXPECT_THAT(dispatcher_->FindInput(sha256), StatusIs(absl::StatusCode::kNotFound));
  Start(other);
}

TEST_F(DispatcherTest, ARefusedJobLeavesNoStartPicture) {
  Make({.scheduler = {.images_queued_max = 1}, .images_per_job_max = 5});
  Join(Identity(), 0);
  JobRequest request = Request(2);
  request.init_image = "picture";
  EXPECT_THAT(Refusal(request), HasReason("QUEUE_FULL"));
  EXPECT_THAT(dispatcher_->FindInput(Sha256Hex("picture", 7)), HasReason("INPUT_NOT_FOUND"));
}

// ---- Workers that come and go

TEST_F(DispatcherTest, AClosedJobIsAbandonedOnItsWorker) {
  Make();
  const auto [anna, worker] = Join(Identity(), 1);
  const auto watch = Start(Request(2));
  const LeaseId lease = worker->batches.at(0).lease;
  dispatcher_->CloseJob(*watch->id);
  EXPECT_THAT(worker->abandoned, ElementsAre(std::pair(lease, std::vector<int32_t>())));
  EXPECT_FALSE(Deliver(*worker, lease, 0));
  EXPECT_EQ(observer_.cancelled, 2);
  EXPECT_EQ(dispatcher_->State().load.images_leased, 0);
  dispatcher_->CloseJob(*watch->id);  // Once more does nothing.
  EXPECT_EQ(observer_.cancelled, 2);
}

TEST_F(DispatcherTest, ASilentWorkerIsClosedAndItsWorkGoesToAnother) {
  Make({.scheduler = {.session_timeout = absl::Seconds(10)}});
  const auto [anna, lost] = Join(Identity("anna"), 1);
  const auto watch = Start(Request(1));
  const LeaseId lease = lost->batches.at(0).lease;
  clock_.Advance(absl::Seconds(5));
  const auto [bert, other] = Join(Identity("bert"), 1);
  clock_.Advance(absl::Seconds(5));
  dispatcher_->Tick();
  ASSERT_TRUE(lost->closed.has_value());
  EXPECT_THAT(*lost->closed, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(*lost->closed, HasReason("SESSION_TIMEOUT"));
  EXPECT_FALSE(Deliver(*lost, lease, 0));
  ASSERT_THAT(other->batches, SizeIs(1));
  EXPECT_TRUE(Deliver(*other, other->batches[0].lease, 0));
  ASSERT_THAT(watch->images, SizeIs(1));
  EXPECT_EQ(watch->images[0].worker, "bert");
  EXPECT_EQ(watch->images[0].attempt, 2);
  EXPECT_EQ(observer_.retried, 1);
  EXPECT_THAT(dispatcher_->Report(anna, {}), HasReason("SESSION_ENDED"));
}

TEST_F(DispatcherTest, ANewerSessionOfAWorkerReplacesTheOlder) {
  Make();
  const auto [first, older] = Join(Identity(), 1);
  Start(Request(1));
  ASSERT_THAT(older->batches, SizeIs(1));
  const auto [second, newer] = Join(Identity(), 1);
  ASSERT_TRUE(older->closed.has_value());
  EXPECT_THAT(*older->closed, StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(*older->closed, HasReason("SESSION_REPLACED"));
  EXPECT_THAT(newer->batches, SizeIs(1));
  EXPECT_THAT(dispatcher_->State().workers, SizeIs(1));
  // The end of the older stream, which comes later, is not the end of the newer session.
  dispatcher_->EndSession(first, absl::CancelledError("gone"));
  EXPECT_FALSE(newer->closed.has_value());
  EXPECT_TRUE(Deliver(*newer, newer->batches[0].lease, 0));
}

TEST_F(DispatcherTest, AJobThatLosesAllItsTriesFailsByName) {
  Make({.scheduler = {.attempts_max = 2}});
  std::shared_ptr<FakeWatch> watch;
  for (int round = 0; round < 2; ++round) {
    const auto [id, worker] = Join(Identity(), 1);
    if (watch == nullptr) watch = Start(Request(1));
    EXPECT_THAT(worker->batches, SizeIs(1));
    dispatcher_->EndSession(id, absl::CancelledError("killed"));
  }
  ASSERT_THAT(watch->failures, SizeIs(1));
  EXPECT_EQ(watch->failures[0].error.reason, "WORKER_LOST");
  EXPECT_EQ(watch->failures[0].error.code, absl::StatusCode::kInternal);
  EXPECT_EQ(watch->failures[0].attempts, 2);
  EXPECT_THAT(watch->ended, Optional(IsOk()));  // The job has ended, its image has failed.
  EXPECT_EQ(observer_.failed, 1);
  EXPECT_EQ(dispatcher_->State().images_failed, 1);
}

TEST_F(DispatcherTest, RenderErrorsAreRetriedOrToldAsTheyAre) {
  Make({.scheduler = {.attempts_max = 2}});
  const auto [anna, worker] = Join(Identity(), 10);
  const auto watch = Start(Request(2));
  const LeaseId lease = worker->batches.at(0).lease;
  EXPECT_TRUE(Deliver(*worker, lease, 0,
                      RenderError{absl::StatusCode::kInvalidArgument, "INIT_IMAGE_INVALID", "not a picture"}));
  ASSERT_THAT(watch->failures, SizeIs(1));
  EXPECT_EQ(watch->failures[0].error.reason, "INIT_IMAGE_INVALID");
  EXPECT_EQ(watch->failures[0].attempts, 1);

  const RenderError broken = {absl::StatusCode::kInternal, "IMAGE_NOT_FINITE", "NaN"};
  EXPECT_TRUE(Deliver(*worker, lease, 1, broken));
  EXPECT_THAT(watch->failures, SizeIs(1));
  ASSERT_THAT(worker->batches, SizeIs(2));
  EXPECT_TRUE(Deliver(*worker, worker->batches[1].lease, 0, broken));
  ASSERT_THAT(watch->failures, SizeIs(2));
  EXPECT_EQ(watch->failures[1].index, 1);
  EXPECT_EQ(watch->failures[1].error.reason, "IMAGE_NOT_FINITE");
  EXPECT_EQ(watch->failures[1].error.code, absl::StatusCode::kInternal);
  EXPECT_EQ(watch->failures[1].attempts, 2);
  EXPECT_THAT(watch->ended, Optional(IsOk()));
}

TEST_F(DispatcherTest, AMalformedReportIsRefused) {
  Make();
  const auto [anna, worker] = Join(Identity(), 1);
  EXPECT_THAT(dispatcher_->Report(anna, {.batches_taken_max = -1}), HasReason("MALFORMED_MESSAGE"));
}

// ---- Slow clients

TEST_F(DispatcherTest, AClientThatIsBehindStopsItsOwnJobOnly) {
  Make({.images_unsent_max = 4});
  WorkerIdentity one_by_one = Identity();
  one_by_one.batch_images_max = 1;
  const auto [anna, worker] = Join(one_by_one, 1'000);
  const auto slow = Start(Request(100));
  size_t done = 0;
  while (done < worker->batches.size()) {
    EXPECT_TRUE(Deliver(*worker, worker->batches[done].lease, 0));
    ++done;
  }
  // What it is behind by, and what the worker had at that moment.
  EXPECT_EQ(slow->images.size(), 4 + 3);
  EXPECT_EQ(dispatcher_->State().load.images_queued, 100 - 7);

  const auto quick = Start(Request(1));
  ASSERT_EQ(worker->batches.size(), done + 1);
  EXPECT_TRUE(Deliver(*worker, worker->batches[done].lease, 0));
  EXPECT_THAT(quick->ended, Optional(IsOk()));

  // It goes on when half of the limit is left, and ends whole.
  for (int i = 0; i < 5; ++i) dispatcher_->ImageSent(*slow->id, 100);
  EXPECT_EQ(worker->batches.size(), done + 1);
  size_t sent = 5;
  for (done = done + 1; slow->images.size() < 100;) {
    dispatcher_->ImageSent(*slow->id, 100);
    ++sent;
    for (; done < worker->batches.size(); ++done) EXPECT_TRUE(Deliver(*worker, worker->batches[done].lease, 0));
    ASSERT_LE(slow->images.size() - sent, 7u);
  }
  EXPECT_THAT(slow->ended, Optional(IsOk()));
}

TEST_F(DispatcherTest, AClientThatIsBehindInBytesStopsItsJobToo) {
  Make({.bytes_unsent_max = 1'000});
  WorkerIdentity one_by_one = Identity();
  one_by_one.batch_images_max = 1;
  const auto [anna, worker] = Join(one_by_one, 1'000);
  const auto slow = Start(Request(100));
  for (size_t done = 0; done < worker->batches.size(); ++done) {
    EXPECT_TRUE(Deliver(*worker, worker->batches[done].lease, 0, PictureOf(600)));
  }
  EXPECT_EQ(slow->images.size(), 2 + 3);
}

TEST_F(DispatcherTest, AllClientsTogetherAreBounded) {
  Make({.bytes_unsent_total_max = 1'000});
  WorkerIdentity one_by_one = Identity();
  one_by_one.batch_images_max = 1;
  const auto [anna, worker] = Join(one_by_one, 10'000);
  std::vector<std::shared_ptr<FakeWatch>> watches;
  for (int i = 0; i < 10; ++i) watches.push_back(Start(Request(100)));
  for (size_t done = 0; done < worker->batches.size(); ++done) {
    EXPECT_TRUE(Deliver(*worker, worker->batches[done].lease, 0, PictureOf(600)));
  }
  size_t images = 0;
  for (const auto& watch : watches) images += watch->images.size();
  // Each job stops with the first image that finds the limit reached; the worker had some more by then.
  EXPECT_LE(images, 2 * 10u + 4u);
  // A client that takes what it is sent is not held up by those that do not.
  const size_t before = watches[0]->images.size();
  const size_t done = worker->batches.size();
  for (size_t i = 0; i < before; ++i) dispatcher_->ImageSent(*watches[0]->id, 600);
  ASSERT_GT(worker->batches.size(), done);
  EXPECT_TRUE(Deliver(*worker, worker->batches[done].lease, 0, PictureOf(600)));
  EXPECT_GT(watches[0]->images.size(), before);
}

TEST_F(DispatcherTest, AClientThatReadsNothingLosesItsCall) {
  Make({.scheduler = {.session_timeout = absl::Hours(1), .stuck_timeout = absl::Hours(1)},
        .client_stall_timeout = absl::Minutes(5)});
  const auto [anna, worker] = Join(Identity(), 2);
  const auto watch = Start(Request(2));
  clock_.Advance(absl::Minutes(10));
  dispatcher_->Tick();
  EXPECT_FALSE(watch->broken);  // There was nothing to read.
  EXPECT_TRUE(Deliver(*worker, worker->batches.at(0).lease, 0));
  clock_.Advance(absl::Minutes(4));
  dispatcher_->Tick();
  EXPECT_FALSE(watch->broken);
  clock_.Advance(absl::Minutes(1));
  dispatcher_->Tick();
  EXPECT_TRUE(watch->broken);
}

// ---- Shutdown

TEST_F(DispatcherTest, ADrainRefusesNewJobsAndLetsTheOthersEnd) {
  Make();
  const auto [anna, worker] = Join(Identity(), 1);
  const auto watch = Start(Request(1));
  EXPECT_FALSE(dispatcher_->Draining());
  dispatcher_->BeginDrain();
  EXPECT_TRUE(dispatcher_->Draining());
  const absl::Status status = Refusal(Request());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(status, HasReason("SHUTTING_DOWN"));
  EXPECT_FALSE(dispatcher_->AwaitIdle(absl::ZeroDuration()));
  EXPECT_TRUE(Deliver(*worker, worker->batches.at(0).lease, 0));
  EXPECT_THAT(watch->ended, Optional(IsOk()));
  EXPECT_FALSE(dispatcher_->AwaitIdle(absl::ZeroDuration()));
  dispatcher_->CloseJob(*watch->id);
  EXPECT_TRUE(dispatcher_->AwaitIdle(absl::ZeroDuration()));
}

TEST_F(DispatcherTest, ShutdownEndsWhatIsLeft) {
  Make();
  const auto [anna, worker] = Join(Identity(), 1);
  const auto watch = Start(Request(1));
  dispatcher_->Shutdown();
  ASSERT_TRUE(watch->ended.has_value());
  EXPECT_THAT(*watch->ended, StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_TRUE(worker->closed.has_value());
  EXPECT_THAT(*worker->closed, HasReason("SHUTTING_DOWN"));
  EXPECT_THAT(dispatcher_->OpenSession(Identity(), std::make_shared<FakeSession>()).status(),
              HasReason("SHUTTING_DOWN"));
}

TEST_F(DispatcherTest, TheRateIsThatOfTheLastMinute) {
  Make({.scheduler = {.session_timeout = absl::Hours(1), .batches_held_max = 1'000}});
  WorkerIdentity one_by_one = Identity();
  one_by_one.batch_images_max = 1;
  const auto [anna, worker] = Join(one_by_one, 1'000);
  Start(Request(600));
  for (int i = 0; i < 600; ++i) {
    clock_.Advance(absl::Milliseconds(500));
    EXPECT_TRUE(Deliver(*worker, worker->batches.at(i).lease, 0));
  }
  EXPECT_NEAR(dispatcher_->State().workers.at(0).images_per_second, 2.0, 0.1);
  clock_.Advance(absl::Minutes(10));
  EXPECT_NEAR(dispatcher_->State().workers.at(0).images_per_second, 0.0, 0.01);
}

}  // namespace
}  // namespace turbofleet
