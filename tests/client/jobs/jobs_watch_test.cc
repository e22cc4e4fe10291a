// What a caller of WatchJob() sees of streams that break, of a coordinator that misbehaves, and what is released when.
#include <map>

#include "common/errors.h"
#include "gmock/gmock.h"
#include "tests/client/jobs/fake_jobs.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::client {
namespace {

using absl::StatusCode;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class JobsWatchTest : public ::testing::Test {
 protected:
  absl::Status Watch(const WatchRequest& request, const WatchOptions& options = {}, const RetryPolicy& policy = {}) {
    return jobs_.Connect(policy)->WatchJob(request, options, [this](WatchEvent event) {
      tokens_.push_back(event.resume_token);
      if (auto* job = std::get_if<Job>(&event.event)) job_states_.push_back(job->state);
      if (auto* image = std::get_if<Image>(&event.event)) {
        ++ended_[image->index];
        images_.push_back(std::move(*image));
      }
      if (auto* failure = std::get_if<ImageFailure>(&event.event)) {
        ++ended_[failure->index];
        failures_.push_back(std::move(*failure));
      }
      on_event_();
    });
  }

  // Runs a watch whose first stream sends exactly these.
  absl::Status WatchOf(std::vector<v1::WatchJobResponse> responses, const WatchRequest& request = {.name = "jobs/1"}) {
    jobs_.watches = {[&](const v1::WatchJobRequest&, FakeWatch* watch) {
      for (const v1::WatchJobResponse& response : responses) watch->Send(response);
      return absl::OkStatus();
    }};
    return Watch(request);
  }

  std::vector<int> IndexesOnce() const {
    std::vector<int> indexes;
    for (const auto& [index, times] : ended_) {
      EXPECT_EQ(times, 1) << index;
      indexes.push_back(static_cast<int>(index));
    }
    return indexes;
  }

  FakeJobs jobs_;
  std::vector<Image> images_;
  std::vector<ImageFailure> failures_;
  std::vector<JobState> job_states_;
  std::vector<std::string> tokens_;
  std::map<int64_t, int> ended_;
  std::function<void()> on_event_ = [] {};
};

TEST_F(JobsWatchTest, EventsComeAsTheyAreWithTheirTokens) {
  jobs_.order = {5, 4, 0, 1, 2, 3};
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1", .ordered = false, .without_content = true}));
  EXPECT_THAT(tokens_, ElementsAre("", "t1", "t2", "t3", "t4", "t5", "t6", "t6"));
  EXPECT_THAT(job_states_, ElementsAre(JobState::kRunning, JobState::kCompleted));
  EXPECT_THAT(IndexesOnce(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(images_[0].index, 5);
  EXPECT_EQ(images_[0].prompt_index, 1);
  EXPECT_EQ(images_[0].seed, 102u);
  EXPECT_EQ(images_[0].job, "jobs/1");
  EXPECT_EQ(images_[0].content, "picture 5 ");
  ASSERT_THAT(failures_, SizeIs(1));
  EXPECT_EQ(failures_[0].index, 4);
  EXPECT_EQ(failures_[0].prompt_index, 1);
  EXPECT_EQ(ReasonOf(failures_[0].status), "RENDER_FAILED");
  EXPECT_TRUE(jobs_.watch_requests[0].without_content());
  EXPECT_FALSE(jobs_.watch_requests[0].ordered());
  EXPECT_THAT(jobs_.released, IsEmpty());
}

// The heart of it: wherever two streams break, and however, the caller sees one.
TEST_F(JobsWatchTest, StreamsThatBreakAnywhereAreHidden) {
  const size_t messages = jobs_.Answer({}).size();
  for (const absl::Status& error : {Gone(), absl::InternalError("RST_STREAM"), absl::UnknownError("proxy"),
                                    absl::CancelledError("proxy"), absl::UnavailableError("shutting down")}) {
    for (size_t first = 1; first <= messages; ++first) {
      for (size_t second = 0; second <= messages; ++second) {
        SCOPED_TRACE(absl::StrCat(error.ToString(), " after ", first, ", then after ", second));
        jobs_.watch_requests.clear();
        ended_.clear();
        job_states_.clear();
        tokens_.clear();
        jobs_.watches = {jobs_.Break(first, error), jobs_.Break(second, error)};
        TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}));
        EXPECT_THAT(IndexesOnce(), ElementsAre(0, 1, 2, 3, 4, 5));
        ASSERT_EQ(jobs_.watch_requests.size(), 3u);
        // The first message is the job, the last is it again.
        const size_t had = std::min<size_t>(first - 1, 6);
        EXPECT_EQ(jobs_.watch_requests[1].resume_token(), FakeJobs::TokenAfter(had));
        // Each state is told once as long as it lasts.
        EXPECT_EQ(job_states_.front(), JobState::kRunning);
        EXPECT_EQ(job_states_.back(), JobState::kCompleted);
        EXPECT_LE(std::count(job_states_.begin(), job_states_.end(), JobState::kCompleted), 3);
      }
    }
  }
}

TEST_F(JobsWatchTest, AJobThatHasNotChangedIsToldOnce) {
  jobs_.watches = {jobs_.Break(2), jobs_.Break(1), jobs_.Break(3)};
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}));
  EXPECT_THAT(job_states_, ElementsAre(JobState::kRunning, JobState::kCompleted));
}

TEST_F(JobsWatchTest, ACallersTokenIsWhereTheWatchStarts) {
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1", .resume_token = "t4"}));
  EXPECT_EQ(jobs_.watch_requests[0].resume_token(), "t4");
  EXPECT_THAT(IndexesOnce(), ElementsAre(4, 5));
  EXPECT_EQ(tokens_.front(), "t4");
}

TEST_F(JobsWatchTest, TriesWithoutProgressAreCountedAndWaitsGrow) {
  jobs_.watches = {jobs_.Break(3)};
  for (int i = 0; i < 20; ++i) jobs_.watches.push_back(jobs_.Break(0));
  const absl::Status status = Watch({.name = "jobs/1"}, {}, {.resume_attempts_max = 4});
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, HasSubstr("gave up after 4 tries")));
  EXPECT_THAT(jobs_.sleeps, ElementsAre(absl::Milliseconds(200), absl::Milliseconds(400), absl::Milliseconds(800)));
  EXPECT_THAT(IndexesOnce(), ElementsAre(0, 1));
}

TEST_F(JobsWatchTest, AnImagePerStreamIsProgress) {
  for (int i = 0; i < 6; ++i) jobs_.watches.push_back(jobs_.Break(2));
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}, {}, {.resume_attempts_max = 2}));
  EXPECT_THAT(jobs_.sleeps, Each(absl::Milliseconds(200)));
  EXPECT_THAT(IndexesOnce(), SizeIs(6));
}

// A proxy that cuts streams after a minute must not end the watch of a job that waits for workers over night.
TEST_F(JobsWatchTest, AStreamThatLastedIsProgressEvenIfItHadNothingToTell) {
  const auto idle = [this](absl::Duration time) {
    return [this, time](const v1::WatchJobRequest&, FakeWatch* watch) {
      watch->Send(jobs_.JobEvent());
      jobs_.clock->Advance(time);
      return Gone();
    };
  };
  for (int i = 0; i < 50; ++i) jobs_.watches.push_back(idle(absl::Minutes(1)));
  TURBOFLEET_EXPECT_OK(Watch({.name = "jobs/1"}, {}, {.resume_attempts_max = 3}));

  // Nor is it one that was long in not coming about.
  jobs_.watches.assign(50, [this](const v1::WatchJobRequest&, FakeWatch*) {
    jobs_.clock->Advance(absl::Minutes(1));
    return Gone();
  });
  jobs_.watch_requests.clear();
  EXPECT_THAT(Watch({.name = "jobs/1"}, {}, {.connect_attempts_max = 3}), StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(jobs_.watch_requests.size(), 3u);

  jobs_.watches.assign(50, idle(absl::Seconds(1)));
  jobs_.watch_requests.clear();
  ended_.clear();
  EXPECT_THAT(Watch({.name = "jobs/1"}, {}, {.resume_attempts_max = 3}), StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(jobs_.watch_requests.size(), 3u);
}

TEST_F(JobsWatchTest, WhatTheCoordinatorRefusesIsNotTriedAgain) {
  for (const absl::Status& refusal :
       {absl::NotFoundError("no such job"), InvalidField("resume_token", "is of another job"),
        MakeError(StatusCode::kOutOfRange, "RELEASED", "released"),
        MakeError(StatusCode::kDataLoss, "DAMAGED", "damaged"), MakeError(StatusCode::kInternal, "BROKEN", "broken")}) {
    for (const size_t messages : {0u, 3u}) {
      jobs_.watch_requests.clear();
      jobs_.watches = {jobs_.Break(messages, refusal)};
      EXPECT_EQ(Watch({.name = "jobs/1"}), refusal);
      EXPECT_EQ(jobs_.watch_requests.size(), 1u);
    }
  }
  EXPECT_THAT(Watch({.name = "1"}), StatusIs(StatusCode::kInvalidArgument, HasSubstr("name")));
}

TEST_F(JobsWatchTest, NobodyThereIsGivenUpSoonerThanAJobThatWasThere) {
  for (int i = 0; i < 20; ++i) jobs_.watches.push_back(jobs_.Break(0));
  EXPECT_THAT(Watch({.name = "jobs/1"}, {}, {.connect_attempts_max = 2, .resume_attempts_max = 9}),
              StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(jobs_.watch_requests.size(), 2u);
}

TEST_F(JobsWatchTest, TheDeadlineHoldsForAllTriesTogether) {
  for (int i = 0; i < 20; ++i) jobs_.watches.push_back(jobs_.Break(1));
  EXPECT_THAT(Watch({.name = "jobs/1"}, {.timeout = absl::Seconds(1)}, {.resume_attempts_max = 99}),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(jobs_.options[0].timeout, absl::Seconds(1));
  EXPECT_EQ(jobs_.options[1].timeout, absl::Milliseconds(800));
  EXPECT_EQ(jobs_.sleeps.size(), 2u);
}

TEST_F(JobsWatchTest, StoppingEndsTheWatchAndLeavesTheJobAlone) {
  std::stop_source stop;
  on_event_ = [&] {
    if (images_.size() == 2) stop.request_stop();
  };
  EXPECT_THAT(Watch({.name = "jobs/1"}, {.stop = stop.get_token(), .release_delivered = true, .release_bytes = 1}),
              StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(images_, SizeIs(2));
  EXPECT_THAT(jobs_.calls, IsEmpty());
  // The second picture was being handled when the stop came: it may not be safe.
  EXPECT_THAT(jobs_.released, ElementsAre("t1"));
  EXPECT_TRUE(jobs_.options[0].stop.stop_requested());
}

TEST_F(JobsWatchTest, OrderedImagesMayNotGoBack) {
  jobs_.order = {0, 1, 3, 2, 4, 5};
  EXPECT_EQ(ReasonOf(Watch({.name = "jobs/1", .ordered = true})), kReasonProtocolViolation);
  EXPECT_TRUE(jobs_.watch_requests[0].ordered());
  EXPECT_THAT(IndexesOnce(), ElementsAre(0, 1, 3));
  jobs_.order = {0, 1, 2, 3, 4, 5};
  ended_.clear();
  TURBOFLEET_EXPECT_OK(Watch({.name = "jobs/1", .ordered = true}));
}

TEST_F(JobsWatchTest, WhatCannotBeIsAProtocolViolation) {
  const std::vector<v1::WatchJobResponse> good = jobs_.Answer({});
  const auto changed = [&good](size_t at, const std::function<void(v1::WatchJobResponse * response)>& change) {
    std::vector<v1::WatchJobResponse> responses = good;
    change(&responses[at]);
    return responses;
  };
  std::vector<v1::WatchJobResponse> twice = good;
  twice.insert(twice.begin() + 4, good[2]);
  std::vector<v1::WatchJobResponse> failed_after_all = good;
  failed_after_all.insert(failed_after_all.begin() + 4, good[5]);
  std::vector<v1::WatchJobResponse> one_less = good;
  one_less.erase(one_less.begin() + 3);
  std::vector<v1::WatchJobResponse> no_failure = good;
  no_failure.erase(no_failure.begin() + 5);
  // A job that has ended from the start is told again at the end.
  std::vector<v1::WatchJobResponse> no_last_job(good.begin(), good.end() - 1);
  no_last_job[0] = good.back();
  const auto image = [&changed](const std::function<void(v1::Image * image)>& change) {
    return changed(2, [&](v1::WatchJobResponse* response) { change(response->mutable_image()); });
  };
  const auto job = [&changed](size_t at, const std::function<void(v1::Job * job)>& change) {
    return changed(at, [&](v1::WatchJobResponse* response) { change(response->mutable_job()); });
  };
  const std::vector<std::pair<std::string, std::vector<v1::WatchJobResponse>>> cases = {
      {"started a watch with something else than the job", {good.begin() + 1, good.end()}},
      {"sent image 1 twice", twice},
      {"sent image 4 twice", failed_after_all},
      {"ended a watch after 4 images and 1 failures of 6", one_less},
      {"ended a watch before the job", {good.begin(), good.end() - 1}},
      {"ended a watch after 5 images and 0 failures of 6", no_failure},
      {"ended a watch before the job", no_last_job},
      {"ended a watch before the job", {}},
      {"ended a watch before the job", {good[0]}},
      {"sent image -1 of a job of 6", image([](v1::Image* image) { image->set_index(-1); })},
      {"sent image 6 of a job of 6", image([](v1::Image* image) { image->set_index(6); })},
      {"sent image 6 of a job of 6", changed(5, [](auto* response) { response->mutable_failure()->set_index(6); })},
      {"sent image 1 without a token", changed(2, [](auto* response) { response->clear_resume_token(); })},
      {"sent image 4 without a token", changed(5, [](auto* response) { response->clear_resume_token(); })},
      {"sent image 1 with seed 7 instead of 101", image([](v1::Image* image) { image->set_seed(7); })},
      {"unknown file format 77", image([](v1::Image* image) { image->set_format(static_cast<v1::ImageFormat>(77)); })},
      {"sent jobs/2 to a watch of jobs/1", job(7, [](v1::Job* job) { job->set_name("jobs/2"); })},
      {"without a name", job(0, [](v1::Job* job) { job->clear_name(); })},
      {"sent a job of 12 images that had 6 before", job(7,
                                                        [](v1::Job* job) {
                                                          job->set_image_count(12);
                                                          job->set_prompt_count(4);
                                                        })},
      {"do not add up", job(0, [](v1::Job* job) { job->set_prompt_count(5); })},
      {"do not add up", job(0,
                            [](v1::Job* job) {
                              job->set_image_count(300'000'000);
                              job->set_prompt_count(100'000'000);
                            })},
      {"do not add up", job(0, [](v1::Job* job) { job->set_images_failed(7); })},
      {"of which it completed 0", job(7, [](v1::Job* job) { job->set_images_completed(0); })}};
  for (const auto& [what, responses] : cases) {
    SCOPED_TRACE(what);
    jobs_.watch_requests.clear();
    const absl::Status status = WatchOf(responses);
    EXPECT_THAT(status, StatusIs(StatusCode::kInternal, HasSubstr(what)));
    EXPECT_EQ(ReasonOf(status), kReasonProtocolViolation);
    EXPECT_EQ(jobs_.watch_requests.size(), 1u);
  }
  EXPECT_THAT(jobs_.sleeps, IsEmpty());
}

TEST_F(JobsWatchTest, AnImageThatCameBeforeTheBreakMayNotComeAgain) {
  jobs_.watches = {jobs_.Break(4), [this](const v1::WatchJobRequest&, FakeWatch* watch) {
                     watch->Send(jobs_.JobEvent());
                     watch->Send(jobs_.EventAt(2));
                     return absl::OkStatus();
                   }};
  EXPECT_EQ(ReasonOf(Watch({.name = "jobs/1"})), kReasonProtocolViolation);
  EXPECT_THAT(IndexesOnce(), ElementsAre(0, 1, 2));
}

TEST_F(JobsWatchTest, EveryStreamStartsWithTheJob) {
  jobs_.watches = {jobs_.Break(4), [this](const v1::WatchJobRequest&, FakeWatch* watch) {
                     watch->Send(jobs_.EventAt(3));
                     return absl::OkStatus();
                   }};
  EXPECT_EQ(ReasonOf(Watch({.name = "jobs/1"})), kReasonProtocolViolation);
  EXPECT_THAT(IndexesOnce(), ElementsAre(0, 1, 2));
}

TEST_F(JobsWatchTest, EventsOfLaterReleasesAreLeftOut) {
  std::vector<v1::WatchJobResponse> responses = jobs_.Answer({});
  v1::WatchJobResponse later;
  later.set_resume_token("t1");
  responses.insert(responses.begin() + 2, later);
  TURBOFLEET_EXPECT_OK(WatchOf(responses));
  EXPECT_THAT(IndexesOnce(), SizeIs(6));
}

TEST_F(JobsWatchTest, ACancelledJobEndsWithWhatItHas) {
  v1::WatchJobResponse end = jobs_.EndEvent();
  end.mutable_job()->set_state(v1::Job::STATE_CANCELLED);
  end.mutable_job()->set_images_completed(2);
  end.mutable_job()->set_images_failed(0);
  TURBOFLEET_EXPECT_OK(WatchOf({jobs_.JobEvent(), jobs_.EventAt(0), jobs_.EventAt(1), end}));
  ended_.clear();
  jobs_.watch_requests.clear();
  EXPECT_EQ(ReasonOf(WatchOf({jobs_.JobEvent(), jobs_.EventAt(0), end})), kReasonProtocolViolation);
}

TEST_F(JobsWatchTest, WhatWasDeliveredIsReleasedEveryFewBytesAndAtTheEnd) {
  std::vector<std::string> order;
  jobs_.on_release = [&] { order.push_back(absl::StrCat("release after ", ended_.size())); };
  std::vector<std::string> made_sure;
  const auto sure = [&](const std::string& token) {
    made_sure.push_back(token);
    return absl::OkStatus();
  };
  TURBOFLEET_ASSERT_OK(
      Watch({.name = "jobs/1"}, {.release_delivered = true, .release_bytes = 20, .before_release = sure}));
  // 10 bytes each; the fifth is a failure, which has none.
  EXPECT_THAT(jobs_.released, ElementsAre("t2", "t4", "t6"));
  EXPECT_THAT(made_sure, ElementsAre("t2", "t4", "t6"));
  EXPECT_THAT(order, ElementsAre("release after 2", "release after 4", "release after 6"));
}

TEST_F(JobsWatchTest, AJobThatWaitsIsReleasedWhateverIsThere) {
  jobs_.job.set_waits_for_release(true);
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}, {.release_delivered = true}));
  EXPECT_THAT(jobs_.released, ElementsAre("t1", "t2", "t3", "t4", "t5", "t6"));
}

TEST_F(JobsWatchTest, AJobThatBeginsToWaitIsReleasedAtOnceAndOnlyOnce) {
  v1::WatchJobResponse waits = jobs_.JobEvent();
  waits.mutable_job()->set_waits_for_release(true);
  waits.set_resume_token("t2");
  jobs_.watches = {[&](const v1::WatchJobRequest& request, FakeWatch* watch) {
    std::vector<v1::WatchJobResponse> responses = jobs_.Answer(request);
    responses.insert(responses.begin() + 3, waits);
    for (const v1::WatchJobResponse& response : responses) watch->Send(response);
    return absl::OkStatus();
  }};
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}, {.release_delivered = true}));
  // The answer to the first says that it does not wait any more.
  EXPECT_THAT(jobs_.released, ElementsAre("t2", "t6"));
}

TEST_F(JobsWatchTest, AReleaseThatBreaksIsMadeUpFor) {
  jobs_.release_answers = {Gone(), absl::OkStatus(), Gone(), Gone(), absl::OkStatus()};
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}, {.release_delivered = true, .release_bytes = 30}));
  EXPECT_THAT(jobs_.released, ElementsAre("t4", "t6"));
  EXPECT_THAT(jobs_.sleeps, ElementsAre(absl::Milliseconds(200), absl::Milliseconds(400)));
  EXPECT_THAT(IndexesOnce(), SizeIs(6));
}

TEST_F(JobsWatchTest, TheLastReleaseHasAllThePatienceThatACallHas) {
  jobs_.watches = {jobs_.Break(3)};
  jobs_.release_answers = {Gone()};
  TURBOFLEET_ASSERT_OK(Watch({.name = "jobs/1"}, {.release_delivered = true}, {.connect_attempts_max = 2}));
  EXPECT_THAT(jobs_.released, ElementsAre("t6"));
}

TEST_F(JobsWatchTest, ARefusedReleaseAndACallerThatIsNotSureEndTheWatch) {
  jobs_.release_answers = {InvalidField("resume_token", "is of another job")};
  EXPECT_THAT(Watch({.name = "jobs/1"}, {.release_delivered = true, .release_bytes = 1}),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(IndexesOnce(), ElementsAre(0));
  ended_.clear();
  for (const int64_t bytes : {1, 1000}) {
    EXPECT_THAT(Watch({.name = "jobs/1"},
                      {.release_delivered = true,
                       .release_bytes = bytes,
                       .before_release = [](const std::string&) { return absl::ResourceExhaustedError("disk full"); }}),
                StatusIs(StatusCode::kResourceExhausted, "disk full"));
  }
  EXPECT_THAT(jobs_.released, IsEmpty());
  EXPECT_THAT(Watch({.name = "jobs/1"}, {.release_delivered = true, .release_bytes = 0}),
              StatusIs(StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace turbofleet::client
