// A coordinator with one job, that does what a test says, without a network.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/lib/connection.h"
#include "client/lib/jobs_stub.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet::client {

inline absl::Status Gone() { return absl::UnavailableError("connection reset"); }

// The stream of one WatchJob call as the other side sees it.
class FakeWatch {
 public:
  using OnResponse = std::function<absl::Status(v1::WatchJobResponse* response)>;

  explicit FakeWatch(const OnResponse& on_response) : on_response_(on_response) {}

  // False once the caller has refused an event, after which the stream has to end.
  bool Send(v1::WatchJobResponse response) {
    if (refused_.ok()) refused_ = on_response_(&response);
    return refused_.ok();
  }
  const absl::Status& refused() const { return refused_; }

 private:
  const OnResponse on_response_;
  absl::Status refused_;
};

// Thread-compatible. Outlives the connection.
struct FakeJobs {
  // Image `i` of the job: seed 100 + i % seeds_per_prompt, content of `content_bytes`, token "t<i + 1>" in the order of
  // `order`. Every fifth is a failure.
  v1::Job job;
  int content_bytes = 10;
  std::vector<int> order;

  // What the next WatchJob calls do, in turn; those after them serve the job to its end.
  std::vector<std::function<absl::Status(const v1::WatchJobRequest& request, FakeWatch* watch)>> watches;
  // Answers of the next calls of each kind, in turn; OK: as if there were none. Those after them succeed.
  std::vector<absl::Status> answers;
  bool does_it_and_then_fails = false;  // Such an answer comes after the call was carried out.

  std::vector<v1::CreateJobRequest> parts;  // Of the last CreateJob call.
  std::vector<std::string> request_ids;     // Of all.
  int jobs_made = 0;
  std::vector<v1::WatchJobRequest> watch_requests;
  std::vector<v1::ListJobsRequest> list_requests;
  std::vector<v1::ListJobsResponse> pages;
  std::vector<std::string> released;  // Tokens.
  std::vector<std::string> calls;     // "get jobs/1" and so on.
  std::vector<absl::Status> release_answers;
  std::function<void()> on_release = [] {};
  std::vector<CallOptions> options;
  bool deleted = false;

  std::vector<absl::Duration> sleeps;
  std::shared_ptr<SimulatedClock> clock = std::make_shared<SimulatedClock>();

  explicit FakeJobs(int prompts = 2, int seeds_per_prompt = 3) {
    job.set_name("jobs/1");
    job.set_state(v1::Job::STATE_RUNNING);
    job.set_prompt_count(prompts);
    job.set_seeds_per_prompt(seeds_per_prompt);
    job.set_image_count(prompts * seeds_per_prompt);
    v1::Accepted& accepted = *job.mutable_accepted();
    accepted.set_job("jobs/1");
    accepted.set_image_count(prompts * seeds_per_prompt);
    accepted.set_width(64);
    accepted.set_height(64);
    accepted.set_steps(1);
    accepted.set_strength(1);
    for (int i = 0; i < seeds_per_prompt; ++i) accepted.add_seeds(static_cast<uint64_t>(100 + i));
    for (int i = 0; i < prompts * seeds_per_prompt; ++i) order.push_back(i);
  }

  // Of what has had `count` images.
  static std::string TokenAfter(size_t count) { return count == 0 ? std::string() : absl::StrCat("t", count); }
  static bool Fails(int index) { return index % 5 == 4; }

  v1::WatchJobResponse JobEvent() const {
    v1::WatchJobResponse response;
    *response.mutable_job() = job;
    return response;
  }
  v1::WatchJobResponse EndEvent() const {
    v1::WatchJobResponse response = JobEvent();
    response.mutable_job()->set_state(v1::Job::STATE_COMPLETED);
    const auto failed = static_cast<int64_t>(std::count_if(order.begin(), order.end(), Fails));
    response.mutable_job()->set_images_failed(failed);
    response.mutable_job()->set_images_completed(job.image_count() - failed);
    response.set_resume_token(absl::StrCat("t", order.size()));
    return response;
  }
  // The event at `position` in the order in which images end.
  v1::WatchJobResponse EventAt(size_t position) const {
    v1::WatchJobResponse response;
    const int index = order[position];
    const auto seed = static_cast<uint64_t>(100 + index % job.seeds_per_prompt());
    if (Fails(index)) {
      v1::ImageFailure& failure = *response.mutable_failure();
      failure.set_index(index);
      failure.set_prompt_index(index / job.seeds_per_prompt());
      failure.set_seed(seed);
      failure.set_code(static_cast<int>(absl::StatusCode::kInternal));
      failure.set_reason("RENDER_FAILED");
      failure.set_message("the picture came out broken");
      failure.set_attempts(3);
    } else {
      v1::Image& image = *response.mutable_image();
      image.set_index(index);
      image.set_prompt_index(index / job.seeds_per_prompt());
      image.set_seed(seed);
      image.set_width(64);
      image.set_height(64);
      image.set_format(v1::IMAGE_FORMAT_PNG);
      std::string content = absl::StrCat("picture ", index, " ");
      content.resize(static_cast<size_t>(content_bytes), '.');
      image.set_content(content);
      image.set_pixel_sha256(std::string(64, 'a'));
      image.set_model_digest(absl::StrCat("sha256:", std::string(64, 'b')));
      image.set_worker("workers/1");
    }
    response.set_resume_token(absl::StrCat("t", position + 1));
    return response;
  }

  // All that a coordinator sends to `request`.
  std::vector<v1::WatchJobResponse> Answer(const v1::WatchJobRequest& request) const {
    size_t position = 0;
    if (!request.resume_token().empty() && !absl::SimpleAtoi(request.resume_token().substr(1), &position)) return {};
    std::vector<v1::WatchJobResponse> responses = {JobEvent()};
    for (; position < order.size(); ++position) responses.push_back(EventAt(position));
    responses.push_back(EndEvent());
    return responses;
  }

  absl::Status Serve(const v1::WatchJobRequest& request, FakeWatch* watch) const {
    for (const v1::WatchJobResponse& response : Answer(request)) watch->Send(response);
    return absl::OkStatus();
  }
  // Ends with `error` after `messages`.
  auto Break(size_t messages, absl::Status error = Gone()) const {
    return [this, messages, error](const v1::WatchJobRequest& request, FakeWatch* watch) {
      const std::vector<v1::WatchJobResponse> responses = Answer(request);
      for (size_t i = 0; i < std::min(messages, responses.size()); ++i) watch->Send(responses[i]);
      return error;
    };
  }

  absl::Status TakeAnswer() {
    if (answers.empty()) return absl::OkStatus();
    const absl::Status answer = answers.front();
    answers.erase(answers.begin());
    return answer;
  }

  std::unique_ptr<Connection> Connect(const RetryPolicy& policy = {});
};

class FakeJobsStub : public JobsStub {
 public:
  explicit FakeJobsStub(FakeJobs* jobs) : jobs_(jobs) {}

  absl::StatusOr<v1::Job> CreateJob(const CallOptions& options,
                                    const std::function<bool(v1::CreateJobRequest* request)>& next) override {
    jobs_->options.push_back(options);
    const absl::Status answer = jobs_->TakeAnswer();
    if (!answer.ok() && !jobs_->does_it_and_then_fails) return answer;
    jobs_->parts.clear();
    for (v1::CreateJobRequest part; next(&part); part.Clear()) jobs_->parts.push_back(part);
    const std::string id = jobs_->parts[0].job().request_id();
    if (std::count(jobs_->request_ids.begin(), jobs_->request_ids.end(), id) == 0 || id.empty()) ++jobs_->jobs_made;
    jobs_->request_ids.push_back(id);
    if (!answer.ok()) return answer;
    return jobs_->job;
  }

  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request, const CallOptions& options) override {
    return Answer("get", request.name(), options);
  }

  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                                const CallOptions& options) override {
    jobs_->options.push_back(options);
    jobs_->list_requests.push_back(request);
    if (const absl::Status answer = jobs_->TakeAnswer(); !answer.ok()) return answer;
    size_t page = 0;
    if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &page)) return absl::UnknownError("?");
    return jobs_->pages[std::min(page, jobs_->pages.size() - 1)];
  }

  absl::Status WatchJob(const v1::WatchJobRequest& request, const CallOptions& options,
                        const FakeWatch::OnResponse& on_response) override {
    jobs_->options.push_back(options);
    const size_t turn = jobs_->watch_requests.size();
    jobs_->watch_requests.push_back(request);
    FakeWatch watch(on_response);
    const absl::Status status =
        turn < jobs_->watches.size() ? jobs_->watches[turn](request, &watch) : jobs_->Serve(request, &watch);
    // As over the wire: the caller's refusal is what ends the call.
    return watch.refused().ok() ? status : watch.refused();
  }

  absl::StatusOr<v1::Job> ReleaseImages(const v1::ReleaseImagesRequest& request, const CallOptions& options) override {
    jobs_->options.push_back(options);
    jobs_->on_release();
    if (!jobs_->release_answers.empty()) {
      const absl::Status answer = jobs_->release_answers.front();
      jobs_->release_answers.erase(jobs_->release_answers.begin());
      if (!answer.ok()) return answer;
    }
    jobs_->released.push_back(request.resume_token());
    v1::Job job = jobs_->job;
    job.set_name(request.name());
    return job;
  }

  absl::StatusOr<v1::Job> CancelJob(const v1::CancelJobRequest& request, const CallOptions& options) override {
    return Answer("cancel", request.name(), options);
  }

  absl::Status DeleteJob(const v1::DeleteJobRequest& request, const CallOptions& options) override {
    jobs_->options.push_back(options);
    jobs_->calls.push_back(absl::StrCat("delete ", request.name()));
    const absl::Status answer = jobs_->TakeAnswer();
    if (!answer.ok() && !jobs_->does_it_and_then_fails) return answer;
    if (std::exchange(jobs_->deleted, true)) return absl::NotFoundError("there is no such job");
    return answer;
  }

 private:
  absl::StatusOr<v1::Job> Answer(const std::string& call, const std::string& name, const CallOptions& options) {
    jobs_->options.push_back(options);
    jobs_->calls.push_back(absl::StrCat(call, " ", name));
    if (const absl::Status answer = jobs_->TakeAnswer(); !answer.ok()) return answer;
    return jobs_->job;
  }

  FakeJobs* const jobs_;
};

inline std::unique_ptr<Connection> FakeJobs::Connect(const RetryPolicy& policy) {
  return std::make_unique<Connection>(Connection::Dependencies{.stub = nullptr,
                                                               .clock = clock,
                                                               .sleep =
                                                                   [this](absl::Duration time, std::stop_token) {
                                                                     sleeps.push_back(time);
                                                                     clock->Advance(time);
                                                                   },
                                                               .random = [] { return 0.0; },
                                                               .jobs = std::make_unique<FakeJobsStub>(this),
                                                               .draw_id = [] { return "drawn"; }},
                                      policy);
}

}  // namespace turbofleet::client
