// The calls about jobs but for watching: what is sent, what is tried again, what is refused on either side.
#include "absl/strings/str_join.h"
#include "common/errors.h"
#include "gmock/gmock.h"
#include "tests/client/jobs/fake_jobs.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::client {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

JobRequest RequestOf(std::vector<std::string> prompts) {
  JobRequest request;
  request.images.prompts = std::move(prompts);
  request.images.count = 3;
  return request;
}

std::vector<std::string> PromptsSent(const FakeJobs& jobs) {
  std::vector<std::string> prompts;
  for (const v1::CreateJobRequest& part : jobs.parts) {
    prompts.insert(prompts.end(), part.prompts().prompts().begin(), part.prompts().prompts().end());
  }
  return prompts;
}

TEST(JobsCreateTest, TheJobGoesFirstAndThenItsPrompts) {
  FakeJobs jobs;
  JobRequest request = RequestOf({"a", "b"});
  request.images.steps = 2;
  request.images.priority = Priority::kBulk;
  request.labels = {{"set", "night"}, {"team", "x"}};
  request.timeout = absl::Milliseconds(90'500);
  request.retention = absl::Hours(1);
  request.request_id = "mine";
  const absl::StatusOr<Job> job = jobs.Connect()->CreateJob(request, {});
  TURBOFLEET_ASSERT_OK(job);
  EXPECT_EQ(job->name, "jobs/1");
  EXPECT_EQ(job->image_count, 6);
  ASSERT_EQ(jobs.parts.size(), 2u);
  const v1::JobSpec& spec = jobs.parts[0].job();
  EXPECT_EQ(spec.images().prompts_size(), 0);
  EXPECT_EQ(spec.images().steps(), 2);
  EXPECT_EQ(spec.images().count(), 3);
  EXPECT_EQ(spec.images().priority(), v1::PRIORITY_BULK);
  EXPECT_EQ(spec.request_id(), "mine");
  EXPECT_THAT(spec.labels(), UnorderedElementsAre(Pair("set", "night"), Pair("team", "x")));
  EXPECT_EQ(spec.timeout().seconds(), 90);
  EXPECT_EQ(spec.timeout().nanos(), 500'000'000);
  EXPECT_EQ(spec.retention().seconds(), 3600);
  EXPECT_THAT(PromptsSent(jobs), ElementsAre("a", "b"));
}

TEST(JobsCreateTest, WhatIsNotSetIsNotSent) {
  FakeJobs jobs;
  TURBOFLEET_ASSERT_OK(jobs.Connect()->CreateJob(RequestOf({"a", "b"}), {}));
  EXPECT_FALSE(jobs.parts[0].job().has_timeout());
  EXPECT_FALSE(jobs.parts[0].job().has_retention());
  EXPECT_EQ(jobs.parts[0].job().images().priority(), v1::PRIORITY_UNSPECIFIED);
}

TEST(JobsCreateTest, NoMessageHasMoreThan8192PromptsOrAMebibyte) {
  for (const size_t size : {size_t{1}, size_t{100}, size_t{4096}}) {
    std::vector<std::string> prompts;
    for (int i = 0; i < 20'000; ++i) {
      prompts.push_back(std::to_string(i));
      prompts.back().resize(size, '.');
    }
    FakeJobs jobs(20'000, 3);
    TURBOFLEET_ASSERT_OK(jobs.Connect()->CreateJob(RequestOf(prompts), {}));
    EXPECT_EQ(PromptsSent(jobs), prompts);
    int largest = 0;
    for (const v1::CreateJobRequest& part : jobs.parts) {
      EXPECT_LE(part.prompts().prompts_size(), 8192);
      EXPECT_LE(part.ByteSizeLong(), size_t{1} << 20);
      largest = std::max(largest, part.prompts().prompts_size());
    }
    // Nor are they sent one by one.
    EXPECT_GE(largest, size == 1 ? 8192 : size == 100 ? 8000 : 250);
  }
}

TEST(JobsCreateTest, OnePromptIsEnough) {
  FakeJobs jobs(1);
  TURBOFLEET_ASSERT_OK(jobs.Connect()->CreateJob(RequestOf({"a"}), {}));
  EXPECT_THAT(PromptsSent(jobs), ElementsAre("a"));
}

TEST(JobsCreateTest, AnEmptyPromptIsAPrompt) {
  FakeJobs jobs(2);
  TURBOFLEET_ASSERT_OK(jobs.Connect()->CreateJob(RequestOf({"", ""}), {}));
  EXPECT_THAT(PromptsSent(jobs), ElementsAre("", ""));
}

// The answer is lost after the job was made; the same call again finds it.
TEST(JobsCreateTest, TriesHaveOneIdAndMakeOneJob) {
  for (const absl::Status& error : {Gone(), absl::InternalError("RST_STREAM"), absl::UnknownError("proxy")}) {
    FakeJobs jobs;
    jobs.does_it_and_then_fails = true;
    jobs.answers = {error, error};
    TURBOFLEET_ASSERT_OK(jobs.Connect()->CreateJob(RequestOf({"a", "b"}), {}));
    EXPECT_THAT(jobs.request_ids, ElementsAre("drawn", "drawn", "drawn"));
    EXPECT_EQ(jobs.jobs_made, 1);
    EXPECT_THAT(PromptsSent(jobs), ElementsAre("a", "b"));
    EXPECT_THAT(jobs.sleeps, ElementsAre(absl::Milliseconds(200), absl::Milliseconds(400)));
  }
}

TEST(JobsCreateTest, AFullCoordinatorIsWaitedForAndARefusalIsNot) {
  FakeJobs jobs;
  jobs.answers = {WithRetryAfter(MakeError(StatusCode::kResourceExhausted, "QUEUE_FULL", "full"), absl::Seconds(7))};
  TURBOFLEET_EXPECT_OK(jobs.Connect()->CreateJob(RequestOf({"a", "b"}), {}));
  EXPECT_THAT(jobs.sleeps, ElementsAre(absl::Seconds(7)));
  jobs.answers = {MakeError(StatusCode::kAlreadyExists, "REQUEST_ID_TAKEN", "another job has that name")};
  EXPECT_THAT(jobs.Connect()->CreateJob(RequestOf({"a", "b"}), {}), StatusIs(StatusCode::kAlreadyExists));
  EXPECT_THAT(jobs.sleeps, SizeIs(1));
}

TEST(JobsCreateTest, AJobOfOtherPromptsIsAProtocolViolation) {
  FakeJobs jobs(3);
  EXPECT_EQ(ReasonOf(jobs.Connect()->CreateJob(RequestOf({"a", "b"}), {}).status()), kReasonProtocolViolation);
}

TEST(JobsCreateTest, WhatIsWrongInAnyCaseIsNeverSent) {
  FakeJobs jobs;
  const auto refused = [&jobs](const std::function<void(JobRequest * request)>& change) {
    JobRequest request = RequestOf({"a", "b"});
    change(&request);
    const absl::Status status = jobs.Connect()->CreateJob(request, {}).status();
    EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument));
    return absl::StrJoin(BadFieldsOf(status), " ");
  };
  EXPECT_EQ(refused([](JobRequest* r) { r->images.prompts.clear(); }), "prompts");
  EXPECT_EQ(refused([](JobRequest* r) { r->images.prompts[1] = std::string(4097, 'a'); }), "prompts[1]");
  EXPECT_EQ(refused([](JobRequest* r) { r->images.steps = 9; }), "steps");
  EXPECT_EQ(refused([](JobRequest* r) { r->images.count = 50'000'001; }), "count");
  EXPECT_EQ(refused([](JobRequest* r) { r->request_id = std::string(129, 'a'); }), "request_id");
  EXPECT_EQ(refused([](JobRequest* r) { r->request_id = "a b"; }), "request_id");
  EXPECT_EQ(refused([](JobRequest* r) { r->labels[""] = "x"; }), "labels");
  EXPECT_EQ(refused([](JobRequest* r) { r->labels["x"] = "a:b"; }), "labels");
  EXPECT_EQ(refused([](JobRequest* r) { r->labels["x"] = std::string(64, 'a'); }), "labels");
  EXPECT_EQ(refused([](JobRequest* r) { r->labels["\xff"] = "x"; }), "labels");
  EXPECT_EQ(refused([](JobRequest* r) {
              for (int i = 0; i < 17; ++i) r->labels[std::to_string(i)] = "";
            }),
            "labels");
  EXPECT_EQ(refused([](JobRequest* r) { r->timeout = absl::Milliseconds(999); }), "timeout");
  EXPECT_EQ(refused([](JobRequest* r) { r->timeout = absl::Hours(721); }), "timeout");
  EXPECT_EQ(refused([](JobRequest* r) { r->retention = absl::Hours(721); }), "retention");
  EXPECT_EQ(refused([](JobRequest* r) { r->retention = -absl::Seconds(1); }), "retention");
  EXPECT_THAT(jobs.request_ids, IsEmpty());
}

TEST(JobsCreateTest, WhatIsJustAllowedIsSent) {
  FakeJobs jobs(1001, 3);
  JobRequest request = RequestOf(std::vector<std::string>(1001, std::string(4096, 'a')));
  request.request_id = std::string(124, 'a') + "-._:";
  for (int i = 0; i < 16; ++i) request.labels[absl::StrCat("a./_-", i)] = std::string(63, 'Z');
  request.timeout = absl::Hours(720);
  request.retention = absl::ZeroDuration();
  TURBOFLEET_EXPECT_OK(jobs.Connect()->CreateJob(request, {}));
  request = RequestOf({"a"});
  request.images.count = 100'000'000;
  TURBOFLEET_EXPECT_OK(Validate(request));
}

TEST(JobsCallsTest, AJobIsTakenOverWhole) {
  FakeJobs jobs;
  jobs.job.set_state(v1::Job::STATE_EXPIRED);
  jobs.job.set_images_completed(3);
  jobs.job.set_images_failed(2);
  jobs.job.set_bytes_retained(1234);
  jobs.job.set_waits_for_release(true);
  jobs.job.set_priority(v1::PRIORITY_BULK);
  (*jobs.job.mutable_labels())["a"] = "b";
  jobs.job.mutable_create_time()->set_seconds(100);
  jobs.job.mutable_deadline()->set_seconds(200);
  jobs.job.mutable_end_time()->set_seconds(201);
  jobs.job.mutable_end_time()->set_nanos(5);
  jobs.job.mutable_delete_time()->set_seconds(300);
  jobs.job.set_request_id("mine");
  const absl::StatusOr<Job> job = jobs.Connect()->GetJob("jobs/1", {});
  TURBOFLEET_ASSERT_OK(job);
  EXPECT_EQ(job->state, JobState::kExpired);
  EXPECT_EQ(job->prompt_count, 2);
  EXPECT_EQ(job->seeds_per_prompt, 3);
  EXPECT_EQ(job->image_count, 6);
  EXPECT_EQ(job->images_completed, 3);
  EXPECT_EQ(job->images_failed, 2);
  EXPECT_EQ(job->bytes_retained, 1234);
  EXPECT_TRUE(job->waits_for_release);
  EXPECT_EQ(job->priority, Priority::kBulk);
  EXPECT_THAT(job->labels, ElementsAre(Pair("a", "b")));
  EXPECT_EQ(job->create_time, absl::FromUnixSeconds(100));
  EXPECT_EQ(job->deadline, absl::FromUnixSeconds(200));
  EXPECT_EQ(job->end_time, absl::FromUnixSeconds(201) + absl::Nanoseconds(5));
  EXPECT_EQ(job->delete_time, absl::FromUnixSeconds(300));
  EXPECT_EQ(job->request_id, "mine");
  EXPECT_THAT(job->accepted.seeds, ElementsAre(100, 101, 102));
  EXPECT_TRUE(HasEnded(*job));
}

TEST(JobsCallsTest, AStateOfALaterReleaseHasEndedIfItHasAnEnd) {
  FakeJobs jobs;
  jobs.job.set_state(static_cast<v1::Job::State>(77));
  Job job = *jobs.Connect()->GetJob("jobs/1", {});
  EXPECT_EQ(job.state, JobState::kUnknown);
  EXPECT_FALSE(HasEnded(job));
  jobs.job.mutable_end_time()->set_seconds(1);
  EXPECT_TRUE(HasEnded(*jobs.Connect()->GetJob("jobs/1", {})));
  job.state = JobState::kRunning;
  EXPECT_FALSE(HasEnded(job));
}

TEST(JobsCallsTest, AllAreTriedAgainWhenNobodyAnswers) {
  FakeJobs jobs;
  const auto connection = jobs.Connect();
  jobs.answers = {Gone()};
  TURBOFLEET_EXPECT_OK(connection->GetJob("jobs/1", {}));
  jobs.answers = {Gone(), absl::InternalError("RST_STREAM")};
  TURBOFLEET_EXPECT_OK(connection->CancelJob("jobs/1", {}));
  jobs.release_answers = {Gone()};
  TURBOFLEET_EXPECT_OK(connection->ReleaseImages("jobs/1", "t3", {}));
  EXPECT_THAT(jobs.calls, ElementsAre("get jobs/1", "get jobs/1", "cancel jobs/1", "cancel jobs/1", "cancel jobs/1"));
  EXPECT_THAT(jobs.released, ElementsAre("t3"));
  EXPECT_THAT(jobs.sleeps, SizeIs(4));

  jobs.answers = std::vector<absl::Status>(9, Gone());
  EXPECT_THAT(jobs.Connect({.connect_attempts_max = 3})->GetJob("jobs/1", {}),
              StatusIs(StatusCode::kUnavailable, HasSubstr("gave up after 3 tries")));
}

TEST(JobsCallsTest, DeadlineAndStopReachTheWire) {
  FakeJobs jobs;
  std::stop_source stop;
  jobs.answers = {Gone()};
  int retries = 0;
  TURBOFLEET_EXPECT_OK(
      jobs.Connect()->GetJob("jobs/1", {.timeout = absl::Seconds(3),
                                        .stop = stop.get_token(),
                                        .on_retry = [&](const absl::Status&, absl::Duration) { ++retries; }}));
  EXPECT_EQ(retries, 1);
  EXPECT_EQ(jobs.options[0].timeout, absl::Seconds(3));
  EXPECT_EQ(jobs.options[1].timeout, absl::Milliseconds(2800));
  stop.request_stop();
  EXPECT_TRUE(jobs.options[0].stop.stop_requested());
  EXPECT_THAT(jobs.Connect()->GetJob("jobs/1", {.timeout = {}, .stop = stop.get_token(), .on_retry = {}}),
              StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(jobs.options, SizeIs(2));
}

TEST(JobsCallsTest, AnotherJobThanWasAskedForIsAProtocolViolation) {
  FakeJobs jobs;
  for (const auto& result : {jobs.Connect()->GetJob("jobs/2", {}), jobs.Connect()->CancelJob("jobs/2", {})}) {
    EXPECT_EQ(ReasonOf(result.status()), kReasonProtocolViolation);
  }
}

TEST(JobsCallsTest, NamesAreCheckedBeforeAnythingIsSent) {
  FakeJobs jobs;
  for (const std::string name : {"", "1", "jobs/", "workers/1"}) {
    EXPECT_THAT(jobs.Connect()->GetJob(name, {}), StatusIs(StatusCode::kInvalidArgument));
    EXPECT_THAT(jobs.Connect()->CancelJob(name, {}), StatusIs(StatusCode::kInvalidArgument));
    EXPECT_THAT(jobs.Connect()->DeleteJob(name, {}), StatusIs(StatusCode::kInvalidArgument));
    EXPECT_THAT(jobs.Connect()->ReleaseImages(name, "t1", {}), StatusIs(StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(jobs.options, IsEmpty());
}

TEST(JobsDeleteTest, ALostAnswerIsNoError) {
  FakeJobs jobs;
  jobs.does_it_and_then_fails = true;
  jobs.answers = {Gone()};
  TURBOFLEET_EXPECT_OK(jobs.Connect()->DeleteJob("jobs/1", {}));
  EXPECT_THAT(jobs.calls, SizeIs(2));
}

// Nothing was done by a call that was refused, so it is not why the job is not there.
TEST(JobsDeleteTest, ARefusedCallIsNoLostAnswer) {
  FakeJobs jobs;
  jobs.answers = {WithRetryAfter(MakeError(StatusCode::kResourceExhausted, "BUSY", "busy"), absl::Seconds(1)),
                  absl::NotFoundError("no such job")};
  EXPECT_EQ(jobs.Connect()->DeleteJob("jobs/1", {}), absl::NotFoundError("no such job"));
  EXPECT_THAT(jobs.calls, SizeIs(2));
}

TEST(JobsDeleteTest, AJobThatIsNotThereOrRunsIsAnError) {
  FakeJobs jobs;
  jobs.answers = {absl::NotFoundError("no such job")};
  EXPECT_THAT(jobs.Connect()->DeleteJob("jobs/1", {}), StatusIs(StatusCode::kNotFound));
  jobs.answers = {MakeError(StatusCode::kFailedPrecondition, "JOB_RUNNING", "cancel it first")};
  EXPECT_THAT(jobs.Connect()->DeleteJob("jobs/1", {}), StatusIs(StatusCode::kFailedPrecondition));
  EXPECT_THAT(jobs.calls, SizeIs(2));
}

class JobsListTest : public ::testing::Test {
 protected:
  v1::ListJobsResponse Page(const std::vector<std::string>& names, const std::string& next) {
    v1::ListJobsResponse page;
    for (const std::string& name : names) {
      *page.add_jobs() = jobs_.job;
      page.mutable_jobs(page.jobs_size() - 1)->set_name(name);
    }
    page.set_next_page_token(next);
    return page;
  }

  FakeJobs jobs_;
};

TEST_F(JobsListTest, PagesAreJoinedAndTheFilterGoesWithEach) {
  jobs_.pages = {Page({"jobs/3", "jobs/2"}, "1"), Page({}, "2"), Page({"jobs/1"}, "")};
  jobs_.answers = {absl::OkStatus(), Gone()};
  const auto jobs = jobs_.Connect()->ListJobs({.state = JobState::kCancelled, .labels = {{"a", "b"}}}, {});
  TURBOFLEET_ASSERT_OK(jobs);
  ASSERT_THAT(*jobs, SizeIs(3));
  EXPECT_EQ((*jobs)[0].name, "jobs/3");
  EXPECT_EQ((*jobs)[2].name, "jobs/1");
  ASSERT_EQ(jobs_.list_requests.size(), 4u);
  for (const v1::ListJobsRequest& request : jobs_.list_requests) {
    EXPECT_EQ(request.state(), v1::Job::STATE_CANCELLED);
    EXPECT_THAT(request.labels(), UnorderedElementsAre(Pair("a", "b")));
  }
  EXPECT_EQ(jobs_.list_requests[3].page_token(), "2");
}

TEST_F(JobsListTest, APageIsAPage) {
  jobs_.pages = {Page({"jobs/3"}, "1"), Page({"jobs/2"}, "2")};
  const auto page = jobs_.Connect()->ListJobsPage({}, 7, "1", {});
  TURBOFLEET_ASSERT_OK(page);
  ASSERT_THAT(page->jobs, SizeIs(1));
  EXPECT_EQ(page->jobs[0].name, "jobs/2");
  EXPECT_EQ(page->next_page_token, "2");
  EXPECT_EQ(jobs_.list_requests[0].page_size(), 7);
  EXPECT_EQ(jobs_.list_requests[0].state(), v1::Job::STATE_UNSPECIFIED);
  EXPECT_THAT(jobs_.Connect()->ListJobsPage({}, -1, "", {}), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(jobs_.Connect()->ListJobsPage({.state = JobState::kUnknown}, 1, "", {}),
              StatusIs(StatusCode::kInvalidArgument));
}

TEST_F(JobsListTest, ListsWithoutEndEnd) {
  jobs_.pages = {Page({"jobs/3"}, "1"), Page({"jobs/2"}, "1")};
  EXPECT_EQ(ReasonOf(jobs_.Connect()->ListJobs({}, {}).status()), kReasonProtocolViolation);
  jobs_.pages = {Page({}, "1"), Page({}, "0")};
  EXPECT_EQ(ReasonOf(jobs_.Connect()->ListJobs({}, {}).status()), kReasonProtocolViolation);
  jobs_.pages = {Page({""}, "")};
  EXPECT_EQ(ReasonOf(jobs_.Connect()->ListJobs({}, {}).status()), kReasonProtocolViolation);
}

}  // namespace
}  // namespace turbofleet::client
