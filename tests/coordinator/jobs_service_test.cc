// Durable jobs as clients meet them: a real server on loopback, over a store in memory.
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/random.h"
#include "coordinator/dispatch/io_pool.h"
#include "coordinator/service/coordinator_server.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "gtest/gtest.h"
#include "tests/coordinator/coordinator_node.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/support/simulated_clock.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class NoRpcObserver : public RpcObserver {};

class JobsServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    node_ = std::make_unique<CoordinatorNode>(CoordinatorNode::Options{}, &clock_, database_, &disk_, &observer_,
                                              logger_.get(), RandomHex128);
    node_->queue.Start();
    auto server = CoordinatorServer::Start(
        {.listen = "127.0.0.1:0",
         .credentials = grpc::InsecureServerCredentials(),
         .limits = {},
         .tenant_metadata = "x-tenant"},
        {.dispatcher = &node_->dispatcher, .desk = &node_->desk, .reader = &node_->reader, .observer = &rpcs_});
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()), grpc::InsecureChannelCredentials());
    stub_ = v1::ImageService::NewStub(channel_);
    worker_ = std::make_unique<FakeWorker>(channel_);
    ASSERT_TRUE(worker_->Join(1'000));
  }
  void TearDown() override {
    node_->dispatcher.Shutdown();
    server_->Shutdown(absl::Seconds(1));
    server_.reset();
    node_->queue.Stop();
  }

  static void Prepare(grpc::ClientContext& context, const std::string& tenant) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context.AddMetadata("x-tenant", tenant);
  }

  static v1::CreateJobRequest First(int32_t count, const std::string& request_id) {
    v1::CreateJobRequest request;
    request.mutable_job()->mutable_images()->set_count(count);
    request.mutable_job()->mutable_images()->set_seed(7);
    request.mutable_job()->set_request_id(request_id);
    return request;
  }
  static v1::CreateJobRequest Prompts(const std::vector<std::string>& prompts) {
    v1::CreateJobRequest request;
    for (const std::string& prompt : prompts) request.mutable_prompts()->add_prompts(std::string(prompt));
    return request;
  }

  absl::StatusOr<v1::Job> Create(const std::vector<v1::CreateJobRequest>& messages) {
    grpc::ClientContext context;
    Prepare(context, "t");
    v1::Job job;
    const auto writer = stub_->CreateJob(&context, &job);
    for (const v1::CreateJobRequest& message : messages) writer->Write(message);
    writer->WritesDone();
    const absl::Status status = FromGrpcStatus(writer->Finish());
    if (!status.ok()) return status;
    return job;
  }

  // Renders everything that the job has.
  void Render(int images) {
    while (images > 0) {
      const auto response = worker_->Read();
      ASSERT_TRUE(response.has_value());
      if (!response->has_batch()) continue;
      for (const auto& image : response->batch().images()) {
        ASSERT_EQ(worker_->Deliver(worker_->Rendered(response->batch().lease(), image.slot())), true);
        --images;
      }
    }
  }

  struct Watched {
    std::vector<int> indexes;
    std::vector<std::string> tokens;
    absl::Status status;
    v1::Job job;
  };
  Watched Watch(const std::string& name, const std::string& token, bool ordered, const std::string& tenant = "t") {
    grpc::ClientContext context;
    Prepare(context, tenant);
    v1::WatchJobRequest request;
    request.set_name(name);
    request.set_resume_token(token);
    request.set_ordered(ordered);
    const auto reader = stub_->WatchJob(&context, request);
    Watched watched;
    v1::WatchJobResponse response;
    while (reader->Read(&response)) {
      if (response.has_image()) {
        watched.indexes.push_back(response.image().index());
        watched.tokens.push_back(response.resume_token());
      }
      if (response.has_job()) watched.job = response.job();
    }
    watched.status = FromGrpcStatus(reader->Finish());
    return watched;
  }

  SimulatedClock clock_{absl::FromUnixSeconds(1'000'000)};
  std::shared_ptr<InMemoryDatabase> database_ = std::make_shared<InMemoryDatabase>(clock_, absl::Seconds(5));
  MemoryDisk disk_;
  DispatchObserver observer_;
  NoRpcObserver rpcs_;
  std::unique_ptr<Logger> logger_ = MakeNullLogger();
  std::unique_ptr<CoordinatorNode> node_;
  std::unique_ptr<CoordinatorServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ImageService::Stub> stub_;
  std::unique_ptr<FakeWorker> worker_;
};

TEST_F(JobsServiceTest, AJobIsCreatedOnceAndWatchedFromEveryToken) {
  const auto job = Create({First(2, "r"), Prompts({"one"}), Prompts({"two", "three"})});
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->image_count(), 6);
  // However the prompts are cut into messages, it is the same request.
  EXPECT_EQ(Create({First(2, "r"), Prompts({"one", "two", "three"})})->name(), job->name());
  EXPECT_EQ(ReasonOf(Create({First(2, "r"), Prompts({"one"})}).status()), "REQUEST_ID_REUSED");
  Render(6);
  const Watched whole = Watch(job->name(), "", true);
  EXPECT_THAT(whole.status, IsOk());
  EXPECT_THAT(whole.indexes, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(whole.job.state(), v1::Job::STATE_COMPLETED);
  const Watched unordered = Watch(job->name(), "", false);
  ASSERT_EQ(unordered.indexes.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(Watch(job->name(), whole.tokens[i], true).indexes,
              std::vector<int>(whole.indexes.begin() + static_cast<int64_t>(i) + 1, whole.indexes.end()));
    EXPECT_EQ(Watch(job->name(), unordered.tokens[i], false).indexes,
              std::vector<int>(unordered.indexes.begin() + static_cast<int64_t>(i) + 1, unordered.indexes.end()));
  }
  EXPECT_THAT(Watch(job->name(), whole.tokens[0], false).status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("resume_token")));
  EXPECT_THAT(Watch(job->name(), absl::StrCat("s7", whole.tokens[0].substr(2)), false).status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("resume_token")));
  EXPECT_EQ(ReasonOf(Watch(job->name(), "", false, "u").status), "JOB_NOT_FOUND");
}

TEST_F(JobsServiceTest, WhatIsWrongWithACreationIsNamedAndLeavesNothing) {
  EXPECT_THAT(Create({}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("part")));
  EXPECT_THAT(Create({Prompts({"one"})}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("part")));
  EXPECT_THAT(Create({First(1, "")}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompts: is empty")));
  EXPECT_THAT(Create({First(1, ""), First(1, "")}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("part")));
  {
    // Cancelled between two messages.
    grpc::ClientContext context;
    Prepare(context, "t");
    v1::Job job;
    const auto writer = stub_->CreateJob(&context, &job);
    ASSERT_TRUE(writer->Write(First(1, "")));
    ASSERT_TRUE(writer->Write(Prompts({"one"})));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  node_->dispatcher.Shutdown();
  server_->Shutdown(absl::Seconds(5));
  node_->queue.Stop();
  EXPECT_TRUE(database_->Snapshot().jobs.empty());
}

}  // namespace
}  // namespace turbofleet
