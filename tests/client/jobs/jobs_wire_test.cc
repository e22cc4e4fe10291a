// The same calls over gRPC, within this process.
#include "common/errors.h"
#include "gmock/gmock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "tests/client/jobs/fake_jobs_service.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/client.h"

namespace turbofleet::client {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JobsWireTest : public ::testing::Test {
 protected:
  void SetUp() override {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    client_.emplace(MakeConnection(server_->InProcessChannel({}), {}));
  }
  void TearDown() override {
    service_.test_ends.Notify();
    server_->Shutdown();
  }

  FakeJobsService service_;
  std::unique_ptr<grpc::Server> server_;
  std::optional<Client> client_;
};

TEST_F(JobsWireTest, PromptsArriveInChunks) {
  service_.jobs = FakeJobs(30'000, 1);
  JobRequest request;
  request.images.prompts.assign(30'000, std::string(200, 'a'));
  const absl::StatusOr<Job> job = client_->CreateJob(request);
  TURBOFLEET_ASSERT_OK(job);
  EXPECT_EQ(service_.prompts, 30'000);
  // The library draws one by itself.
  EXPECT_EQ(service_.spec.request_id().size(), 32u);
}

TEST_F(JobsWireTest, ARefusalInTheMiddleOfThePromptsEndsTheCall) {
  JobRequest request;
  request.images.prompts.assign(100'000, std::string(200, 'a'));
  request.images.prompts[1] = "refuse";
  const absl::Status status = client_->CreateJob(request).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, HasSubstr("is refused")));
  EXPECT_THAT(BadFieldsOf(status), ElementsAre("prompts[1]"));
}

TEST_F(JobsWireTest, EveryCallReachesItsMethod) {
  EXPECT_EQ(client_->GetJob("jobs/1")->name, "jobs/1");
  EXPECT_EQ(client_->CancelJob("jobs/1")->name, "jobs/1");
  EXPECT_EQ(client_->ReleaseImages("jobs/1", "t2")->name, "jobs/1");
  EXPECT_THAT(service_.released, ElementsAre("t2"));
  TURBOFLEET_EXPECT_OK(client_->DeleteJob("jobs/1"));
  EXPECT_EQ(client_->ListJobs({})->size(), 2u);
  EXPECT_EQ(client_->ListJobsPage({}, 1, "")->next_page_token, "more");
  EXPECT_EQ(ReasonOf(client_->GetJob("jobs/2").status()), "JOB_NOT_FOUND");
  EXPECT_EQ(ReasonOf(client_->DeleteJob("jobs/2")), "JOB_NOT_FOUND");
}

TEST_F(JobsWireTest, AWatchReadsItsStreamToTheEnd) {
  service_.jobs.content_bytes = 3'500'000;
  std::vector<int64_t> indexes;
  size_t bytes = 0;
  TURBOFLEET_ASSERT_OK(client_->WatchJob({.name = "jobs/1"}, {}, [&](WatchEvent event) {
    if (const auto* image = std::get_if<Image>(&event.event)) {
      indexes.push_back(image->index);
      bytes += image->content.size();
    }
  }));
  EXPECT_THAT(indexes, ElementsAre(0, 1, 2, 3, 5));
  EXPECT_EQ(bytes, 17'500'000u);
  EXPECT_THAT(client_->WatchJob({.name = "jobs/2"}, {}, [](WatchEvent) {}), StatusIs(StatusCode::kNotFound));
}

// Releasing is a call of its own while the stream is open.
TEST_F(JobsWireTest, AWatchReleasesWhileItReads) {
  TURBOFLEET_ASSERT_OK(
      client_->WatchJob({.name = "jobs/1"}, {.release_delivered = true, .release_bytes = 20}, [](WatchEvent) {}));
  EXPECT_THAT(service_.released, ElementsAre("t2", "t4", "t6"));
}

TEST_F(JobsWireTest, StopAndDeadlineEndAWatchThatIsSilent) {
  service_.is_silent = true;
  std::stop_source stop;
  EXPECT_THAT(client_->WatchJob({.name = "jobs/1"}, {.stop = stop.get_token()},
                                [&](WatchEvent event) {
                                  if (std::holds_alternative<Image>(event.event)) stop.request_stop();
                                }),
              StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(client_->WatchJob({.name = "jobs/1"}, {.timeout = absl::Milliseconds(50)}, [](WatchEvent) {}),
              StatusIs(StatusCode::kDeadlineExceeded));
}

}  // namespace
}  // namespace turbofleet::client
