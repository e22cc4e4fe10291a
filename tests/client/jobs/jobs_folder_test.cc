// From a job's events to a folder, through kills at every moment.
#include "client/cli/job_folder.h"
#include "client/cli/job_watcher.h"
#include "common/errors.h"
#include "gmock/gmock.h"
#include "tests/client/jobs/fake_jobs.h"
#include "tests/client/jobs/job_place.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using absl::StatusCode;
using client::FakeJobs;
using client::FakeWatch;
using client::Gone;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class JobsFolderTest : public ::testing::Test {
 protected:
  std::unique_ptr<JobFolder> Open(const std::string& name = "out") {
    auto folder = JobFolder::Open(place_ / name, *NameTemplate::Parse("{index}-{seed}"));
    TURBOFLEET_EXPECT_OK(folder);
    return *std::move(folder);
  }

  // Opens the folder as a new process does, and watches.
  absl::Status Watch(const JobWatcherOptions& options = {}, const client::RetryPolicy& policy = {}) {
    Client client(jobs_.Connect(policy));
    const std::unique_ptr<JobFolder> folder = Open();
    TURBOFLEET_EXPECT_OK(folder->SetRecord(record_));
    Progress progress(ProgressStyle::kQuiet, jobs_.clock.get());
    JobWatcher watcher(&client, folder.get(), &progress, options);
    const absl::Status status = watcher.Run(stop_);
    images_ = watcher.writer().images();
    failures_ = watcher.writer().failures();
    earlier_ = watcher.earlier();
    expected_ = progress.state().total;
    return status;
  }

  // The folder as it has to be in the end.
  void ExpectAllOnce() {
    EXPECT_THAT(place_.Indexes("out/manifest.jsonl"), UnorderedElementsAre(0, 1, 2, 3, 5));
    EXPECT_THAT(place_.Indexes("out/errors.jsonl"), ElementsAre(4));
    EXPECT_EQ(place_.Pictures("out"), 5u);
  }

  // Ends when a stream breaks, as a kill does.
  const client::RetryPolicy impatient_ = {.connect_attempts_max = 1, .resume_attempts_max = 1};
  JobPlace place_;
  FakeJobs jobs_;
  std::stop_token stop_;
  JobRecord record_ = {.job = "jobs/1",
                       .prompts = {"a fox", "an owl"},
                       .negative_prompt = "blur",
                       .guidance_scale = 2.5,
                       .quality = std::nullopt,
                       .vae = "tiny",
                       .init_image = "../start.png",
                       .init_image_sha256 = "cafe"};
  int64_t images_ = 0;
  int64_t failures_ = 0;
  int64_t earlier_ = 0;
  int64_t expected_ = 0;
};

TEST_F(JobsFolderTest, EachEventIsAFileOrALineWithAllThatMadeIt) {
  TURBOFLEET_ASSERT_OK(Watch());
  ExpectAllOnce();
  EXPECT_EQ(place_.Read("out/5-102.png"), "picture 5 ");
  const nlohmann::json line = place_.Lines("out/manifest.jsonl")[4];
  EXPECT_EQ(line["index"], 5);
  EXPECT_EQ(line["prompt"], "an owl");
  EXPECT_EQ(line["seed"], 102);
  EXPECT_EQ(line["steps"], 1);
  EXPECT_EQ(line["path"], "5-102.png");
  EXPECT_EQ(line["job"], "jobs/1");
  EXPECT_EQ(line["negative_prompt"], "blur");
  EXPECT_EQ(line["guidance_scale"], 2.5);
  EXPECT_EQ(line["vae"], "tiny");
  EXPECT_EQ(line["init_image"], "../start.png");
  EXPECT_EQ(line["init_image_sha256"], "cafe");
  EXPECT_FALSE(line.contains("prompt_index"));
  const nlohmann::json error = place_.Lines("out/errors.jsonl")[0];
  EXPECT_EQ(error["prompt"], "an owl");
  EXPECT_EQ(error["seed"], 101);
  EXPECT_EQ(error["reason"], "RENDER_FAILED");
  EXPECT_EQ(error["attempts"], 3);
  EXPECT_EQ(images_, 5);
  EXPECT_EQ(failures_, 1);
  EXPECT_EQ(expected_, 6);
  EXPECT_EQ(place_.Json("out/job-position.json")["resume_token"], "t6");
}

TEST_F(JobsFolderTest, WithoutThePromptsTheirNumbersAreWritten) {
  record_ = {.job = "jobs/1"};
  TURBOFLEET_ASSERT_OK(Watch());
  const nlohmann::json line = place_.Lines("out/manifest.jsonl")[4];
  EXPECT_EQ(line["prompt"], "");
  EXPECT_EQ(line["prompt_index"], 1);
  EXPECT_EQ(place_.Lines("out/errors.jsonl")[0]["prompt_index"], 1);
  // And read again.
  EXPECT_EQ(Open()->output()->earlier()[4].prompt_index, 1);
}

TEST_F(JobsFolderTest, ASecondRunGoesOnWhereTheFirstEnded) {
  for (size_t events = 0; events <= 6; ++events) {
    SCOPED_TRACE(events);
    std::filesystem::remove_all(place_ / "out");
    jobs_.watch_requests.clear();
    jobs_.watches = {jobs_.Break(events + 1)};
    EXPECT_THAT(Watch({}, impatient_), StatusIs(StatusCode::kUnavailable));
    EXPECT_EQ(images_ + failures_, static_cast<int64_t>(events));
    TURBOFLEET_ASSERT_OK(Watch());
    EXPECT_EQ(jobs_.watch_requests[1].resume_token(), FakeJobs::TokenAfter(events));
    ExpectAllOnce();
    EXPECT_EQ(earlier_, static_cast<int64_t>(events) - (events >= 5 ? 1 : 0));
    EXPECT_EQ(expected_, 6 - static_cast<int64_t>(events));
  }
}

// The picture or the failure is there, its token is not: the process was killed in between.
TEST_F(JobsFolderTest, AKillBetweenPictureAndTokenRepeatsNothing) {
  for (size_t events = 1; events <= 6; ++events) {
    SCOPED_TRACE(events);
    std::filesystem::remove_all(place_ / "out");
    jobs_.watch_requests.clear();
    jobs_.watches = {jobs_.Break(events + 1)};
    EXPECT_THAT(Watch({}, impatient_), StatusIs(StatusCode::kUnavailable));
    const std::string before = FakeJobs::TokenAfter(events - 1);
    place_.Write("out/job-position.json", R"({"ordered": false, "resume_token": ")" + before + "\"}\n");
    TURBOFLEET_ASSERT_OK(Watch());
    EXPECT_EQ(jobs_.watch_requests[1].resume_token(), before);
    ExpectAllOnce();
    EXPECT_EQ(images_ + failures_, 6 - static_cast<int64_t>(events));
  }
}

// The file is there, the line of the manifest is not, or only half of it.
TEST_F(JobsFolderTest, AKillBetweenFileAndLineRepeatsNothing) {
  for (const bool half : {false, true}) {
    std::filesystem::remove_all(place_ / "out");
    jobs_.watch_requests.clear();
    jobs_.watches = {jobs_.Break(4)};
    EXPECT_THAT(Watch({}, impatient_), StatusIs(StatusCode::kUnavailable));
    std::string manifest = place_.Read("out/manifest.jsonl");
    const size_t last_line = manifest.rfind('\n', manifest.size() - 2) + 1;
    manifest.resize(half ? last_line + 10 : last_line);
    place_.Write("out/manifest.jsonl", manifest);
    place_.Write("out/job-position.json", R"({"ordered": false, "resume_token": "t2"})");
    TURBOFLEET_ASSERT_OK(Watch());
    ExpectAllOnce();
  }
}

TEST_F(JobsFolderTest, ALostPositionCostsTimeAndNothingElse) {
  TURBOFLEET_ASSERT_OK(Watch());
  std::filesystem::remove(place_ / "out/job-position.json");
  TURBOFLEET_ASSERT_OK(Watch());
  EXPECT_EQ(images_ + failures_, 0);
  ExpectAllOnce();
  EXPECT_EQ(place_.Json("out/job-position.json")["resume_token"], "t6");
}

TEST_F(JobsFolderTest, AnotherPictureUnderTheSameIndexIsNotTakenFor) {
  jobs_.watches = {jobs_.Break(3)};
  EXPECT_THAT(Watch({}, impatient_), StatusIs(StatusCode::kUnavailable));
  std::filesystem::remove(place_ / "out/job-position.json");
  jobs_.watches.push_back([this](const v1::WatchJobRequest&, FakeWatch* watch) {
    watch->Send(jobs_.JobEvent());
    v1::WatchJobResponse other = jobs_.EventAt(1);
    other.mutable_image()->set_pixel_sha256(std::string(64, 'f'));
    watch->Send(other);
    return absl::OkStatus();
  });
  EXPECT_THAT(Watch(), StatusIs(StatusCode::kFailedPrecondition, HasSubstr("another picture 1")));
}

TEST_F(JobsFolderTest, TheOrderOfAFolderStays) {
  jobs_.watches = {jobs_.Break(3)};
  EXPECT_THAT(Watch({.ordered = true}, impatient_), StatusIs(StatusCode::kUnavailable));
  EXPECT_TRUE(jobs_.watch_requests[0].ordered());
  EXPECT_THAT(Watch(), StatusIs(StatusCode::kFailedPrecondition, HasSubstr("was filled with --ordered")));
  TURBOFLEET_EXPECT_OK(Watch({.ordered = true}));
  ExpectAllOnce();
}

// What was not written must be neither passed over nor released.
TEST_F(JobsFolderTest, ADiskThatFailsEndsTheWatchBeforeTheToken) {
  jobs_.watches = {[this](const v1::WatchJobRequest& request, FakeWatch* watch) {
    const std::vector<v1::WatchJobResponse> responses = jobs_.Answer(request);
    for (int i = 0; i < 3; ++i) watch->Send(responses[static_cast<size_t>(i)]);
    // Nothing can be put there any more.
    std::filesystem::remove_all(place_ / "out");
    EXPECT_FALSE(watch->Send(responses[3]));
    return absl::OkStatus();
  }};
  jobs_.job.set_waits_for_release(true);
  EXPECT_THAT(Watch({.release = true}), StatusIs(StatusCode::kNotFound));
  EXPECT_EQ(images_, 2);
  EXPECT_THAT(jobs_.released, ElementsAre("t1", "t2"));
}

TEST_F(JobsFolderTest, ReleasingComesAfterTheToken) {
  jobs_.job.set_waits_for_release(true);
  std::vector<std::string> positions;
  jobs_.on_release = [&] { positions.push_back(place_.Json("out/job-position.json")["resume_token"]); };
  TURBOFLEET_ASSERT_OK(Watch({.release = true}));
  EXPECT_THAT(positions, ElementsAre("t1", "t2", "t3", "t4", "t5", "t6"));
  EXPECT_EQ(jobs_.released, positions);
  jobs_.released.clear();
  std::filesystem::remove_all(place_ / "out");
  TURBOFLEET_ASSERT_OK(Watch());
  EXPECT_THAT(jobs_.released, IsEmpty());
}

TEST_F(JobsFolderTest, CtrlCKeepsWhatHasCome) {
  std::stop_source stop;
  stop_ = stop.get_token();
  jobs_.watches = {[&](const v1::WatchJobRequest& request, FakeWatch* watch) {
    const std::vector<v1::WatchJobResponse> responses = jobs_.Answer(request);
    watch->Send(responses[0]);
    watch->Send(responses[1]);
    stop.request_stop();
    watch->Send(responses[2]);
    return absl::OkStatus();
  }};
  EXPECT_THAT(Watch(), StatusIs(StatusCode::kCancelled));
  stop_ = {};
  TURBOFLEET_ASSERT_OK(Watch());
  EXPECT_EQ(jobs_.watch_requests[1].resume_token(), "t1");
  ExpectAllOnce();
}

TEST_F(JobsFolderTest, AFolderIsOfOneJob) {
  TURBOFLEET_ASSERT_OK(Watch());
  const std::unique_ptr<JobFolder> folder = Open();
  EXPECT_EQ(folder->record().job, "jobs/1");
  EXPECT_THAT(folder->record().prompts, ElementsAre("a fox", "an owl"));
  EXPECT_EQ(folder->record().guidance_scale, 2.5);
  EXPECT_EQ(folder->record().init_image_sha256, "cafe");
  EXPECT_THAT(folder->SetRecord({.job = "jobs/2"}), StatusIs(StatusCode::kFailedPrecondition, HasSubstr("jobs/1")));
  // Watching does not forget what creating knew.
  TURBOFLEET_EXPECT_OK(folder->SetRecord({.job = "jobs/1"}));
  EXPECT_THAT(folder->record().prompts, ElementsAre("a fox", "an owl"));
}

TEST_F(JobsFolderTest, QualityIsKept) {
  record_.quality = 70;
  TURBOFLEET_ASSERT_OK(Open()->SetRecord(record_));
  EXPECT_EQ(Open()->record().quality, 70);
}

TEST_F(JobsFolderTest, PicturesOfNoJobAreLeftAlone) {
  TURBOFLEET_ASSERT_OK(Watch());
  std::filesystem::remove(place_ / "out/job.json");
  EXPECT_THAT(JobFolder::Open(place_ / "out", *NameTemplate::Parse("{index}")).status(),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("of no job")));
}

TEST_F(JobsFolderTest, DamageIsSaid) {
  std::filesystem::create_directories(place_ / "out");
  for (const std::string text : {"", "{", "[]", "{}", R"({"job": 7})", R"({"job": "jobs/1", "prompts": [7]})"}) {
    place_.Write("out/job.json", text);
    EXPECT_THAT(JobFolder::Open(place_ / "out", *NameTemplate::Parse("{index}")).status(),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("job.json")))
        << text;
  }
}

TEST_F(JobsFolderTest, PromptsThatAreNotTheJobsAreNotWritten) {
  record_.prompts = {"a fox"};
  EXPECT_THAT(Watch(), StatusIs(StatusCode::kFailedPrecondition, HasSubstr("knows 1 prompts")));
  EXPECT_EQ(place_.Pictures("out"), 0u);
}

}  // namespace
}  // namespace turbofleet::cli
