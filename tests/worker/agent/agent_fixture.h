// An agent between a scripted engine and a coordinator that a test plays.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/grpc_server.h"
#include "common/log.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "tests/support/simulated_clock.h"
#include "tests/worker/agent/fake_coordinator.h"
#include "tests/worker/agent/manual_timer.h"
#include "tests/worker/agent/scripted_engine.h"
#include "worker/agent/agent.h"
#include "worker/agent/input_fetcher.h"

namespace turbofleet {

// How the agent ended. Thread-safe.
class EndWaiter {
 public:
  void Set(AgentEnd end, const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    end_.emplace(end, status);
  }
  // The end, or nothing after the patience.
  std::optional<std::pair<AgentEnd, absl::Status>> Await() const {
    absl::MutexLock lock(&mu_);
    const auto ended = [this] {
      mu_.AssertHeld();
      return end_.has_value();
    };
    mu_.AwaitWithTimeout(absl::Condition(&ended), kPatience);
    return end_;
  }

 private:
  mutable absl::Mutex mu_;
  std::optional<std::pair<AgentEnd, absl::Status>> end_ ABSL_GUARDED_BY(mu_);
};

// Keeps every field of every record, so that a test can look for what must not be there. Thread-safe.
class RecordingLogger : public Logger {
 public:
  void Log(LogLevel, std::string_view event, std::initializer_list<LogField> fields) override {
    absl::MutexLock lock(&mu_);
    text_.append(event);
    for (const LogField& field : fields) absl::StrAppend(&text_, " ", field.value);
    text_ += "\n";
  }
  std::string text() const {
    absl::MutexLock lock(&mu_);
    return text_;
  }

 private:
  mutable absl::Mutex mu_;
  std::string text_ ABSL_GUARDED_BY(mu_);
};

// Counts outcomes, and knows the backlog. Thread-safe.
class RecordingObserver : public NullAgentObserver {
 public:
  void ImageEnded(ImageOutcome outcome) override {
    absl::MutexLock lock(&mu_);
    ++outcomes_[outcome];
  }
  void BacklogChanged(int64_t encoding, int64_t delivering, int64_t bytes) override {
    absl::MutexLock lock(&mu_);
    backlog_ = {.encoding = encoding, .delivering = delivering, .bytes = bytes};
  }
  bool AwaitOutcomes(ImageOutcome outcome, int count) {
    absl::MutexLock lock(&mu_);
    const auto there = [&] {
      mu_.AssertHeld();
      return outcomes_[outcome] >= count;
    };
    return mu_.AwaitWithTimeout(absl::Condition(&there), kPatience) && outcomes_[outcome] == count;
  }
  bool AwaitEmptyBacklog() {
    absl::MutexLock lock(&mu_);
    const auto empty = [&] {
      mu_.AssertHeld();
      return backlog_.encoding == 0 && backlog_.delivering == 0 && backlog_.bytes == 0;
    };
    return mu_.AwaitWithTimeout(absl::Condition(&empty), kPatience);
  }
  bool AwaitDelivering(int64_t count) {
    absl::MutexLock lock(&mu_);
    const auto there = [&] {
      mu_.AssertHeld();
      return backlog_.delivering == count && backlog_.encoding == 0;
    };
    return mu_.AwaitWithTimeout(absl::Condition(&there), kPatience);
  }

 private:
  absl::Mutex mu_;
  std::map<ImageOutcome, int> outcomes_ ABSL_GUARDED_BY(mu_);
  Backlog backlog_ ABSL_GUARDED_BY(mu_);
};

class AgentTest : public ::testing::Test {
 protected:
  AgentTest() {
    options_.worker = "anna";
    options_.version = "1.2.3";
    options_.incarnation = std::string(32, '7');
  }

  ~AgentTest() override {
    script_.FinishWarmUp(absl::OkStatus());
    script_.LetAllGo();
    agent_.reset();
  }

  std::shared_ptr<grpc::Channel> NewConnection() {
    grpc::ChannelArguments arguments = MakeChannelArguments();
    arguments.SetInt("turbofleet.connection", ++connections_);
    return grpc::CreateCustomChannel(coordinator_.address(), grpc::InsecureChannelCredentials(), arguments);
  }

  void StartAgent() { agent_ = MakeAgent(options_, &script_, &end_); }

  std::unique_ptr<Agent> MakeAgent(const Agent::Options& options, EngineScript* script, EndWaiter* end) {
    return std::make_unique<Agent>(options,
                                   Agent::Parts{.engine = std::make_unique<ScriptedEngine>(script),
                                                .control = NewConnection(),
                                                .delivery = NewConnection(),
                                                .inputs = inputs_,
                                                .encoders = &encoders_,
                                                .timer = &timer_,
                                                .clock = &clock_,
                                                .logger = &logger_,
                                                .observer = &observer_,
                                                .random = [] { return 0.0; }},
                                   [end](AgentEnd how, const absl::Status& status) { end->Set(how, status); });
  }

  // Until the first report of the first session.
  void StartAndAwaitSession() {
    StartAgent();
    ASSERT_TRUE(coordinator_.AwaitReport(0, [](const auto& report) { return report.batches_taken_max() == 2; }));
  }

  // Images with the seeds lease * 10, lease * 10 + 1, ...
  static FakeCoordinator::Batch MakeBatch(uint64_t lease, int images) {
    FakeCoordinator::Batch batch;
    batch.set_lease(lease);
    batch.mutable_shape()->set_width(64);
    batch.mutable_shape()->set_height(64);
    batch.mutable_shape()->set_steps(1);
    batch.mutable_shape()->set_vae(v1::VAE_FULL);
    for (int i = 0; i < images; ++i) {
      internal::worker::v1::BatchImage& image = *batch.add_images();
      image.set_slot(i);
      image.set_prompt("a secret garden");
      image.set_seed(lease * 10 + i);
      image.set_format(v1::IMAGE_FORMAT_RAW);
    }
    return batch;
  }

  static FakeCoordinator::Batch MakeImageToImageBatch(uint64_t lease, int images, const std::string& sha256) {
    FakeCoordinator::Batch batch = MakeBatch(lease, images);
    batch.mutable_shape()->set_image_to_image(true);
    batch.mutable_shape()->set_steps(2);
    batch.mutable_shape()->set_first_step(1);
    for (internal::worker::v1::BatchImage& image : *batch.mutable_images()) {
      image.set_init_image_sha256(sha256);
      image.set_strength(0.5);
    }
    return batch;
  }

  // Waits until the last report lists exactly these leases and this credit.
  bool AwaitLeases(size_t session, const std::vector<uint64_t>& leases, int64_t credit) {
    return coordinator_.AwaitReport(session, [&](const FakeCoordinator::Report& report) {
      return std::vector<uint64_t>(report.leases().begin(), report.leases().end()) == leases &&
             report.batches_taken_max() == credit;
    });
  }

  // Waits until the agent has been sent everything up to a lease.
  bool AwaitReceived(size_t session, uint64_t lease) {
    while (TriggerReport(session)) {
      if (coordinator_.reports(session).back().last_lease_received() >= lease) return true;
    }
    return false;
  }

  // Makes the agent report, and waits until it has.
  bool TriggerReport(size_t session) {
    const size_t before = coordinator_.reports(session).size();
    return timer_.Fire(FakeCoordinator::kReportInterval) && coordinator_.AwaitReports(session, before + 1);
  }

  FakeCoordinator coordinator_;
  EngineScript script_;
  SimulatedClock clock_;
  RecordingLogger logger_;
  RecordingObserver observer_;
  ManualTimer timer_;
  EndWaiter end_;
  int connections_ = 0;
  Agent::Options options_;
  EncoderPool encoders_{{.threads = 2}};
  InputFetcher fetcher_{NewConnection(), kPatience};
  std::shared_ptr<InputCache> inputs_ = std::make_shared<InputCache>(
      InputCache::Options{},
      [this](const std::string& sha256, std::function<void(absl::StatusOr<std::string>)> done) {
        fetcher_.Fetch(sha256, std::move(done));
      },
      &encoders_);
  std::unique_ptr<Agent> agent_;
};

}  // namespace turbofleet
