// The coordinator as clients and workers meet it: a real server on loopback, a worker and clients that misbehave.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/errors.h"
#include "common/log.h"
#include "common/random.h"
#include "common/sha256.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/service/coordinator_server.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/support/simulated_clock.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

namespace worker_pb = internal::worker::v1;

constexpr absl::Duration kPatience = absl::Seconds(30);

// Lets a test wait for what the dispatcher has been told. Thread-safe.
class WaitingObserver : public DispatchObserver, public RpcObserver {
 public:
  void OnImagesCancelled(const JobSpec&, int64_t images) override { Add(&cancelled_, images); }
  void OnRetry(RetryReason, int64_t images) override { Add(&retried_, images); }
  void OnLateDelivery() override { Add(&late_, 1); }
  void OnHandled(const Method& method, grpc::StatusCode code, absl::Duration) override {
    absl::MutexLock lock(&mu_);
    handled_.emplace_back(method.method, code);
  }

  bool AwaitCancelled(int64_t images) { return Await(&cancelled_, images); }
  bool AwaitRetried(int64_t images) { return Await(&retried_, images); }
  bool AwaitHandled(const std::string& method, grpc::StatusCode code) {
    absl::MutexLock lock(&mu_);
    const auto handled = [&] {
      mu_.AssertHeld();
      return std::find(handled_.begin(), handled_.end(), std::pair(method, code)) != handled_.end();
    };
    return mu_.AwaitWithTimeout(absl::Condition(&handled), kPatience);
  }

 private:
  void Add(int64_t* counter, int64_t by) {
    absl::MutexLock lock(&mu_);
    *counter += by;
  }
  bool Await(const int64_t* counter, int64_t at_least) {
    absl::MutexLock lock(&mu_);
    const auto reached = [counter, at_least] { return *counter >= at_least; };
    return mu_.AwaitWithTimeout(absl::Condition(&reached), kPatience);
  }

  absl::Mutex mu_;
  int64_t cancelled_ = 0, retried_ = 0, late_ = 0;
  std::vector<std::pair<std::string, grpc::StatusCode>> handled_ ABSL_GUARDED_BY(mu_);
};

// One call of GenerateImages.
class Call {
 public:
  Call(v1::ImageService::Stub& stub, const v1::GenerateImagesRequest& request,
       std::chrono::milliseconds deadline = std::chrono::minutes(1)) {
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
    reader_ = stub.GenerateImages(&context_, request);
  }
  ~Call() {
    if (reader_ != nullptr) {
      context_.TryCancel();
      reader_->Finish();
    }
  }

  bool Read() { return reader_->Read(&response_); }
  const v1::GenerateImagesResponse& response() const { return response_; }
  void Cancel() { context_.TryCancel(); }
  absl::Status Finish() {
    const grpc::Status status = reader_->Finish();
    reader_.reset();
    return FromGrpcStatus(status);
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateImagesResponse>> reader_;
  v1::GenerateImagesResponse response_;
};

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }

  void Start(const Dispatcher::Options& options) {
    Stop();
    dispatcher_ = std::make_unique<Dispatcher>(options, Dispatcher::Environment{.clock = &clock_,
                                                                                .observer = &observer_,
                                                                                .logger = logger_.get(),
                                                                                .new_name = RandomHex128,
                                                                                .new_seed = RandomUint32});
    absl::StatusOr<std::unique_ptr<CoordinatorServer>> server = CoordinatorServer::Start(
        {.listen = "127.0.0.1:0", .credentials = grpc::InsecureServerCredentials(), .limits = {}},
        {.dispatcher = dispatcher_.get(), .observer = &observer_});
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    images_ = v1::ImageService::NewStub(Channel());
    cluster_ = v1::ClusterService::NewStub(Channel());
  }

  void TearDown() override { Stop(); }

  void Stop() {
    if (server_ == nullptr) return;
    dispatcher_->Shutdown();
    server_->Shutdown(absl::Seconds(1));
    server_.reset();
  }

  // A connection of its own, so that the end of one is not the end of another.
  std::shared_ptr<grpc::Channel> Channel() {
    grpc::ChannelArguments arguments = MakeChannelArguments();
    arguments.SetInt("turbofleet.test.channel", ++channels_);
    return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  std::unique_ptr<FakeWorker> Join(int64_t batches, const std::string& name = "anna") {
    auto worker = std::make_unique<FakeWorker>(Channel());
    EXPECT_TRUE(worker->Join(batches, name));
    return worker;
  }

  static v1::GenerateImagesRequest Request(int32_t count = 1) {
    v1::GenerateImagesRequest request;
    request.add_prompts("a red circle");
    request.set_seed(7);
    request.set_count(count);
    return request;
  }

  absl::Status Refusal(const v1::GenerateImagesRequest& request) {
    Call call(*images_, request);
    EXPECT_FALSE(call.Read());
    return call.Finish();
  }

  SimulatedClock clock_;
  WaitingObserver observer_;
  std::unique_ptr<Logger> logger_ = MakeNullLogger();
  int channels_ = 0;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<CoordinatorServer> server_;
  std::unique_ptr<v1::ImageService::Stub> images_;
  std::unique_ptr<v1::ClusterService::Stub> cluster_;
};

// What the request of the next test comes to on the worker's side.
void ExpectTheBatchAsked(const worker_pb::Batch& batch) {
  EXPECT_EQ(batch.shape().width(), 128);
  EXPECT_EQ(batch.shape().height(), 64);
  EXPECT_EQ(batch.shape().steps(), 3);
  EXPECT_EQ(batch.shape().first_step(), 0);
  EXPECT_FALSE(batch.shape().image_to_image());
  EXPECT_EQ(batch.shape().vae(), v1::VAE_FULL);
  ASSERT_THAT(batch.images(), SizeIs(2));
  EXPECT_EQ(batch.images(1).slot(), 1);
  EXPECT_EQ(batch.images(1).prompt(), "a red circle");
  EXPECT_EQ(batch.images(1).negative_prompt(), "blur");
  EXPECT_EQ(batch.images(1).guidance_scale(), 2.0);
  EXPECT_EQ(batch.images(1).seed(), 8);
  EXPECT_EQ(batch.images(1).format(), v1::IMAGE_FORMAT_JPEG);
  EXPECT_EQ(batch.images(1).quality(), 80);
  EXPECT_TRUE(batch.images(1).embed_metadata());
}

void ExpectTheImageDelivered(const v1::Image& image, const std::string& job) {
  EXPECT_EQ(image.name(), job + "/images/1");
  EXPECT_EQ(image.index(), 1);
  EXPECT_EQ(image.prompt_index(), 0);
  EXPECT_EQ(image.seed(), 8);
  EXPECT_EQ(image.width(), 128);
  EXPECT_EQ(image.height(), 64);
  EXPECT_EQ(image.format(), v1::IMAGE_FORMAT_JPEG);
  EXPECT_EQ(image.content(), std::string(100, 'x'));
  EXPECT_EQ(image.pixel_sha256(), std::string(64, '0'));
  EXPECT_EQ(image.model_digest(), absl::StrCat("sha256:", std::string(64, 'a')));
  EXPECT_EQ(image.worker(), "workers/anna");
  EXPECT_EQ(image.attempt(), 1);
  EXPECT_EQ(image.batch_size(), 1);
  EXPECT_EQ(image.prompt_tokens_cut(), 3);
  EXPECT_EQ(image.times().unet().nanos(), 5'000);
}

TEST_F(ServiceTest, ImagesTravelFromTheWorkerToTheClient) {
  const auto worker = Join(1);
  v1::GenerateImagesRequest request = Request(2);
  request.set_format(v1::IMAGE_FORMAT_JPEG);
  request.set_quality(80);
  request.set_guidance_scale(2.0);
  request.set_negative_prompt("blur");
  request.set_steps(3);
  request.set_width(128);
  Call call(*images_, request);
  ASSERT_TRUE(call.Read());
  const v1::Accepted& accepted = call.response().accepted();
  EXPECT_THAT(accepted.job(), StartsWith("jobs/"));
  EXPECT_EQ(accepted.image_count(), 2);
  EXPECT_EQ(accepted.width(), 128);
  EXPECT_EQ(accepted.height(), 64);
  EXPECT_EQ(accepted.steps(), 3);
  EXPECT_THAT(accepted.seeds(), ::testing::ElementsAre(7, 8));
  EXPECT_EQ(accepted.strength(), 1.0);
  EXPECT_EQ(accepted.model_digest(), absl::StrCat("sha256:", std::string(64, 'a')));
  EXPECT_EQ(accepted.model_name(), "sd-turbo");
  const std::string job = accepted.job();

  const auto message = worker->Read();
  ASSERT_TRUE(message.has_value() && message->has_batch());
  const worker_pb::Batch& batch = message->batch();
  ExpectTheBatchAsked(batch);

  worker_pb::DeliverImagesRequest delivery = worker->Rendered(batch.lease(), 1);
  delivery.mutable_image()->mutable_unet()->set_nanos(5'000);
  delivery.mutable_image()->set_prompt_tokens_cut(3);
  EXPECT_EQ(worker->Deliver(delivery), true);
  ASSERT_TRUE(call.Read());
  ExpectTheImageDelivered(call.response().image(), job);

  worker_pb::DeliverImagesRequest failure;
  failure.set_session(worker->token());
  failure.set_lease(batch.lease());
  failure.set_slot(0);
  failure.mutable_failure()->set_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  failure.mutable_failure()->set_reason("INIT_IMAGE_INVALID");
  failure.mutable_failure()->set_message("no picture");
  EXPECT_EQ(worker->Deliver(failure), true);
  ASSERT_TRUE(call.Read());
  EXPECT_EQ(call.response().failure().index(), 0);
  EXPECT_EQ(call.response().failure().seed(), 7);
  EXPECT_EQ(call.response().failure().code(), 3);
  EXPECT_EQ(call.response().failure().reason(), "INIT_IMAGE_INVALID");
  EXPECT_EQ(call.response().failure().message(), "no picture");
  EXPECT_EQ(call.response().failure().attempts(), 1);
  EXPECT_FALSE(call.Read());
  EXPECT_THAT(call.Finish(), IsOk());
  EXPECT_TRUE(observer_.AwaitHandled("GenerateImages", grpc::StatusCode::OK));
}

// ---- Refusals

TEST_F(ServiceTest, BadRequestsAreRefusedByNameAndTheServerLivesOn) {
  v1::GenerateImagesRequest request = Request();
  request.set_steps(9);
  absl::Status status = Refusal(request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("steps: ")));
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELD");

  status = Refusal(Request());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(status), "NO_WORKERS");
  EXPECT_TRUE(RetryAfterOf(status).has_value());

  const auto worker = Join(1);
  request = Request();
  request.set_model("another");
  status = Refusal(request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReasonOf(status), "MODEL_NOT_SERVED");
  request = Request();
  request.set_width(1024);
  EXPECT_EQ(ReasonOf(Refusal(request)), "SIZE_NOT_SERVED");
  request = Request();
  request.set_vae(v1::VAE_TINY);
  EXPECT_EQ(ReasonOf(Refusal(request)), "VAE_NOT_SERVED");
  EXPECT_EQ(ReasonOf(Refusal(Request(10'001))), "INVALID_FIELD");

  Call call(*images_, Request());
  EXPECT_TRUE(call.Read());
}

TEST_F(ServiceTest, AFullQueueSaysWhenToComeBack) {
  Start({.scheduler = {.images_queued_max = 10}, .images_per_job_max = 10});
  const auto worker = Join(0);
  Call call(*images_, Request(8));
  ASSERT_TRUE(call.Read());
  const absl::Status status = Refusal(Request(3));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("images_queued_max")));
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_EQ(RetryAfterOf(status), absl::Seconds(1));
}

// ---- Clients that leave

TEST_F(ServiceTest, AClientThatDropsItsCallFreesTheWorker) {
  const auto worker = Join(1);
  {
    Call call(*images_, Request(4));
    ASSERT_TRUE(call.Read());
    ASSERT_TRUE(worker->Read()->has_batch());
    call.Cancel();
  }
  const auto message = worker->Read();
  ASSERT_TRUE(message.has_value() && message->has_abandon());
  EXPECT_EQ(message->abandon().lease(), 1);
  EXPECT_THAT(message->abandon().slots(), SizeIs(0));
  EXPECT_TRUE(observer_.AwaitCancelled(4));
  EXPECT_EQ(worker->Deliver(worker->Rendered(1, 0)), false);
  EXPECT_TRUE(observer_.AwaitHandled("GenerateImages", grpc::StatusCode::CANCELLED));
  EXPECT_TRUE(dispatcher_->AwaitIdle(kPatience));
}

TEST_F(ServiceTest, ADeadlineEndsTheJob) {
  const auto worker = Join(1);
  Call call(*images_, Request(1), std::chrono::milliseconds(300));
  ASSERT_TRUE(call.Read());
  EXPECT_FALSE(call.Read());
  EXPECT_THAT(call.Finish(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_TRUE(observer_.AwaitCancelled(1));
  ASSERT_TRUE(worker->Read()->has_batch());
  EXPECT_TRUE(worker->Read()->has_abandon());
}

// ---- Workers that fail

TEST_F(ServiceTest, TheImagesOfAKilledWorkerGoToAnother) {
  auto killed = Join(1, "anna");
  Call call(*images_, Request(1));
  ASSERT_TRUE(call.Read());
  ASSERT_TRUE(killed->Read()->has_batch());
  const auto other = Join(1, "bert");
  killed->Kill();
  const auto message = other->Read();
  ASSERT_TRUE(message.has_value() && message->has_batch());
  EXPECT_EQ(other->Deliver(other->Rendered(message->batch().lease(), 0)), true);
  ASSERT_TRUE(call.Read());
  EXPECT_EQ(call.response().image().worker(), "workers/bert");
  EXPECT_EQ(call.response().image().attempt(), 2);
  EXPECT_FALSE(call.Read());
  EXPECT_THAT(call.Finish(), IsOk());
}

// Its connection lives, but it says nothing: only time tells.
TEST_F(ServiceTest, ASilentWorkerLosesItsImagesAndItsLateDeliveryIsRefused) {
  const auto silent = Join(1, "anna");
  Call call(*images_, Request(1));
  ASSERT_TRUE(call.Read());
  const auto lost = silent->Read();
  ASSERT_TRUE(lost.has_value() && lost->has_batch());
  clock_.Advance(absl::Seconds(60));
  const auto other = Join(1, "bert");
  dispatcher_->Tick();
  const auto taken = other->Read();
  ASSERT_TRUE(taken.has_value() && taken->has_batch());
  EXPECT_EQ(silent->Deliver(silent->Rendered(lost->batch().lease(), 0)), false);
  EXPECT_FALSE(silent->Read().has_value());
  const absl::Status status = FromGrpcStatus(silent->FinishSession());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(status), "SESSION_TIMEOUT");
  EXPECT_EQ(other->Deliver(other->Rendered(taken->batch().lease(), 0)), true);
  ASSERT_TRUE(call.Read());
  EXPECT_EQ(call.response().image().worker(), "workers/bert");
  EXPECT_FALSE(call.Read());
}

TEST_F(ServiceTest, ANewerSessionTakesOver) {
  const auto older = Join(1);
  const auto newer = Join(1);
  EXPECT_FALSE(older->Read().has_value());
  const absl::Status status = FromGrpcStatus(older->FinishSession());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(ReasonOf(status), "SESSION_REPLACED");
}

TEST_F(ServiceTest, MalformedSessionsAreRefusedByName) {
  const auto refused = [this](const std::function<void(FakeWorker&)>& talk) {
    FakeWorker worker(Channel());
    talk(worker);
    while (worker.Read().has_value()) {
    }
    const absl::Status status = FromGrpcStatus(worker.FinishSession());
    EXPECT_EQ(ReasonOf(status), "MALFORMED_MESSAGE") << status;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](FakeWorker& worker) { worker.Grant(1); }), HasSubstr("before hello"));
  EXPECT_THAT(refused([](FakeWorker& worker) { worker.SendHello({}); }), HasSubstr("hello.worker"));
  EXPECT_THAT(refused([](FakeWorker& worker) {
                worker.Join(1);
                worker.SendHello(FakeWorker::ValidHello());
              }),
              HasSubstr("first message only"));
  EXPECT_THAT(refused([](FakeWorker& worker) {
                worker.Join(1);
                worker.Grant(-1);
              }),
              HasSubstr("batches_taken_max"));
  EXPECT_THAT(refused([](FakeWorker& worker) {
                worker.Join(1);
                worker_pb::Report report;
                report.set_last_lease_received(77);
                worker.SendReport(report);
              }),
              HasSubstr("last_lease_received"));
  EXPECT_EQ(dispatcher_->State().workers.size(), 0);
}

// A worker that cannot be understood would otherwise hold its images for ever.
TEST_F(ServiceTest, AMalformedDeliveryCostsTheSession) {
  const auto worker = Join(1, "anna");
  Call call(*images_, Request(1));
  ASSERT_TRUE(call.Read());
  const auto message = worker->Read();
  worker_pb::DeliverImagesRequest broken = worker->Rendered(message->batch().lease(), 0);
  broken.mutable_image()->set_pixel_sha256("no digest");
  EXPECT_EQ(worker->Deliver(broken), std::nullopt);
  EXPECT_THAT(FromGrpcStatus(worker->FinishDelivery()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("image.pixel_sha256")));
  EXPECT_FALSE(worker->Read().has_value());
  EXPECT_EQ(ReasonOf(FromGrpcStatus(worker->FinishSession())), "MALFORMED_MESSAGE");
  EXPECT_TRUE(observer_.AwaitRetried(1));
}

TEST_F(ServiceTest, DeliveriesOfUnknownSessionsAreNotWanted) {
  const auto worker = Join(1);
  worker_pb::DeliverImagesRequest request = worker->Rendered(1, 0);
  request.set_session("guessed");
  EXPECT_EQ(worker->Deliver(request), false);
}

TEST_F(ServiceTest, AWorkerThatClosesItsStreamHasLeft) {
  const auto worker = Join(1);
  EXPECT_TRUE(worker->FinishSession().ok());
  EXPECT_EQ(ReasonOf(Refusal(Request())), "NO_WORKERS");
}

// ---- Start pictures

TEST_F(ServiceTest, WorkersFetchTheStartPictureWhileTheJobRuns) {
  const auto worker = Join(1);
  const std::string file = std::string("\x89PNG\r\n\x1a\n", 8) + std::string(5 << 20, 'p');
  const auto get = [&](const std::string& sha256, worker_pb::GetInputResponse* response) {
    grpc::ClientContext context;
    worker_pb::GetInputRequest request;
    request.set_sha256(sha256);
    return FromGrpcStatus(worker->stub().GetInput(&context, request, response));
  };
  worker_pb::GetInputResponse response;
  {
    v1::GenerateImagesRequest request = Request();
    request.set_init_image(file);
    request.set_strength(0.6);
    Call call(*images_, request);
    ASSERT_TRUE(call.Read());
    EXPECT_EQ(call.response().accepted().strength(), 0.6);
    const auto message = worker->Read();
    ASSERT_TRUE(message.has_value() && message->has_batch());
    EXPECT_TRUE(message->batch().shape().image_to_image());
    EXPECT_EQ(message->batch().shape().first_step(), 1);
    const std::string sha256 = message->batch().images(0).init_image_sha256();
    EXPECT_EQ(sha256, Sha256Hex(file.data(), file.size()));
    EXPECT_THAT(get(sha256, &response), IsOk());
    EXPECT_EQ(response.content(), file);
  }
  EXPECT_TRUE(observer_.AwaitCancelled(1));
  const absl::Status status = get(Sha256Hex(file.data(), file.size()), &response);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(ReasonOf(status), "INPUT_NOT_FOUND");
}

// ---- Slow clients

// The worker delivers as much as it is allowed to a client that reads nothing. Memory must not follow.
TEST_F(ServiceTest, AClientThatDoesNotReadIsBounded) {
  Start({.scheduler = {.batches_held_max = 2}, .images_unsent_max = 8});
  const auto worker = Join(1'000'000);
  constexpr size_t kBytes = 1 << 20;
  Call slow(*images_, Request(1'000));
  ASSERT_TRUE(slow.Read());
  const auto quick_request = Request(1);
  // Everything that comes is delivered, until nothing comes and the other client's image is all there is left to do.
  int delivered = 0;
  std::unique_ptr<Call> quick;
  bool quick_done = false;
  while (!quick_done) {
    const ClusterState state = dispatcher_->State();
    if (quick == nullptr && state.load.images_leased == 0 && state.load.images_queued > 0 && delivered > 0) {
      quick = std::make_unique<Call>(*images_, quick_request);
      ASSERT_TRUE(quick->Read());
    }
    const auto message = worker->Read();
    ASSERT_TRUE(message.has_value() && message->has_batch());
    for (const worker_pb::BatchImage& image : message->batch().images()) {
      ASSERT_EQ(worker->Deliver(worker->Rendered(message->batch().lease(), image.slot(), kBytes)), true);
      ++delivered;
    }
    if (quick != nullptr) quick_done = quick->Read();
    ASSERT_LT(delivered, 200) << "nothing holds the worker back";
  }
  EXPECT_FALSE(quick->Read());
  EXPECT_THAT(quick->Finish(), IsOk());
}

TEST_F(ServiceTest, AClientThatNeverReadsIsCutOff) {
  Start({.images_unsent_max = 8, .client_stall_timeout = absl::Minutes(5)});
  const auto worker = Join(1'000'000);
  Call stalled(*images_, Request(100));
  ASSERT_TRUE(stalled.Read());
  const auto message = worker->Read();
  for (const worker_pb::BatchImage& image : message->batch().images()) {
    ASSERT_EQ(worker->Deliver(worker->Rendered(message->batch().lease(), image.slot(), 3 << 20)), true);
  }
  clock_.Advance(absl::Minutes(6));
  dispatcher_->Tick();
  EXPECT_TRUE(observer_.AwaitHandled("GenerateImages", grpc::StatusCode::CANCELLED));
  EXPECT_TRUE(dispatcher_->AwaitIdle(kPatience));
}

// ---- The cluster

TEST_F(ServiceTest, TheClusterIsShown) {
  const auto anna = Join(1, "anna");
  const auto bert = Join(0, "bert");
  Call call(*images_, Request(6));
  ASSERT_TRUE(call.Read());
  ASSERT_TRUE(anna->Read()->has_batch());
  v1::Cluster cluster;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(cluster_->GetCluster(&context, {}, &cluster).ok());
  }
  EXPECT_EQ(cluster.version(), "0.1.0");
  EXPECT_FALSE(cluster.draining());
  EXPECT_EQ(cluster.workers_ready(), 2);
  EXPECT_EQ(cluster.workers_draining(), 0);
  EXPECT_EQ(cluster.jobs_running(), 1);
  EXPECT_EQ(cluster.images_queued(), 2);
  EXPECT_EQ(cluster.images_leased(), 4);
  EXPECT_EQ(cluster.images_queued_max(), 100'000);
  EXPECT_TRUE(cluster.has_oldest_queued_age());
  ASSERT_THAT(cluster.models(), SizeIs(1));
  EXPECT_EQ(cluster.models(0).name(), "sd-turbo");
  EXPECT_EQ(cluster.models(0).workers(), 2);

  v1::ListWorkersRequest request;
  request.set_page_size(1);
  std::vector<std::string> names;
  do {
    grpc::ClientContext context;
    v1::ListWorkersResponse response;
    ASSERT_TRUE(cluster_->ListWorkers(&context, request, &response).ok());
    ASSERT_THAT(response.workers(), SizeIs(1));
    names.push_back(response.workers(0).name());
    EXPECT_EQ(response.workers(0).state(), names.size() == 1 ? v1::Worker::STATE_BUSY : v1::Worker::STATE_IDLE);
    EXPECT_EQ(response.workers(0).images_leased(), names.size() == 1 ? 4 : 0);
    EXPECT_EQ(response.workers(0).device_name(), "a processor");
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, ::testing::ElementsAre("workers/anna", "workers/bert"));
}

TEST_F(ServiceTest, BadPagesAreRefused) {
  v1::ListWorkersRequest request;
  request.set_page_size(-1);
  v1::ListWorkersResponse response;
  grpc::ClientContext first, second;
  EXPECT_THAT(FromGrpcStatus(cluster_->ListWorkers(&first, request, &response)),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("page_size: ")));
  request.set_page_size(0);
  request.set_page_token("made up");
  EXPECT_THAT(FromGrpcStatus(cluster_->ListWorkers(&second, request, &response)),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("page_token: ")));
}

// ---- Shutdown

TEST_F(ServiceTest, ADrainLetsRunningJobsEnd) {
  const auto worker = Join(1);
  Call call(*images_, Request(1));
  ASSERT_TRUE(call.Read());
  const auto message = worker->Read();
  server_->SetNotServing();
  dispatcher_->BeginDrain();
  const absl::Status status = Refusal(Request());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(status), "SHUTTING_DOWN");
  EXPECT_EQ(worker->Deliver(worker->Rendered(message->batch().lease(), 0)), true);
  ASSERT_TRUE(call.Read());
  EXPECT_TRUE(call.response().has_image());
  EXPECT_FALSE(call.Read());
  EXPECT_THAT(call.Finish(), IsOk());
  EXPECT_TRUE(dispatcher_->AwaitIdle(kPatience));
}

TEST_F(ServiceTest, ShutdownEndsEveryStreamWithAReason) {
  const auto worker = Join(1);
  Call call(*images_, Request(5));
  ASSERT_TRUE(call.Read());
  ASSERT_TRUE(worker->Read()->has_batch());
  dispatcher_->Shutdown();
  EXPECT_FALSE(call.Read());
  const absl::Status status = call.Finish();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(status), "SHUTTING_DOWN");
  EXPECT_FALSE(worker->Read().has_value());
  EXPECT_EQ(ReasonOf(FromGrpcStatus(worker->FinishSession())), "SHUTTING_DOWN");
  server_->Shutdown(absl::Seconds(5));
}

// ---- Many at once

// Threads on every side, for the sanitizers.
TEST_F(ServiceTest, ManyClientsAndWorkersAtOnce) {
  std::atomic<bool> done = false;
  std::vector<std::unique_ptr<FakeWorker>> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(Join(1'000'000, absl::StrCat("worker-", i)));
  std::vector<std::thread> threads;
  for (auto& worker : workers) {
    threads.emplace_back([&worker] {
      while (const auto message = worker->Read()) {
        if (!message->has_batch()) continue;
        for (const worker_pb::BatchImage& image : message->batch().images()) {
          worker->Deliver(worker->Rendered(message->batch().lease(), image.slot(), 1'000));
        }
      }
    });
  }
  std::atomic<int> images = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back([this, &images, i] {
      for (int round = 0; round < 5; ++round) {
        Call call(*images_, Request(20));
        // Every third call leaves in the middle.
        for (int read = 0; call.Read() && !((i + round) % 3 == 0 && read == 5); ++read) {
          images += call.response().has_image();
        }
      }
    });
  }
  std::thread ticker([this, &done] {
    for (int tick = 0; !done; ++tick) {
      // One second in all: these workers never report, and on a busy machine time without an end would make them lost.
      if (tick < 100'000) clock_.Advance(absl::Microseconds(10));
      dispatcher_->Tick();
    }
  });
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(dispatcher_->AwaitIdle(kPatience));
  EXPECT_GE(images, 20 * 20);
  done = true;
  ticker.join();
  dispatcher_->Shutdown();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace turbofleet
