// Coordinators, a worker and clients of durable jobs, in one thread.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/coordinator_node.h"
#include "tests/coordinator/fake_sinks.h"
#include "tests/support/simulated_clock.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {

MATCHER_P(HasReason, reason, "") { return ReasonOf(internal_status_matchers::StatusOf(arg)) == reason; }

class FakeFollower : public JobFollower {
 public:
  void PostRecord(const JobRecord& record, bool waits) override {
    last = record;
    waits_for_release = waits;
  }
  void PostEnd(const absl::Status& status) override { ended = status; }
  void Flush() override {}

  std::optional<JobRecord> last;
  bool waits_for_release = false;
  std::optional<absl::Status> ended;
};

class DurableObserver : public DispatchObserver {
 public:
  void OnImageFinished(const JobSpec&, const FinishedImage&) override { ++finished; }
  void OnImagesCancelled(const JobSpec&, int64_t images) override { cancelled += images; }
  void OnLateDelivery() override { ++late; }
  int64_t finished = 0, cancelled = 0, late = 0;
};

class DurableFixture : public ::testing::Test {
 protected:
  using Fault = FaultyJobStore::Fault;

  CoordinatorNode& Start(CoordinatorNode::Options options = {}) {
    auto node = std::make_unique<CoordinatorNode>(options, &clock_, database_, &disk_, &observer_, logger_.get(),
                                                  [this] { return absl::StrFormat("%032x", ++names_); });
    node->Recover();
    nodes_.push_back(std::move(node));
    return *nodes_.back();
  }

  struct Worker {
    SessionId id{};
    std::shared_ptr<FakeSession> sink;
    size_t done = 0;  // Batches.
  };
  static Worker Join(CoordinatorNode& node, const std::string& name = "anna", const std::string& model = "a") {
    Worker worker = {.sink = std::make_shared<FakeSession>()};
    worker.id = node.dispatcher
                    .OpenSession({.name = name,
                                  .version = "1",
                                  .model_name = model,
                                  .model_digest = "sha256:" + model,
                                  .device = "cpu",
                                  .device_name = "cpu",
                                  .precision = "float32",
                                  .default_width = 64,
                                  .default_height = 64,
                                  .size_max = 512,
                                  .batch_images_max = 8},
                                 worker.sink)
                    .value();
    EXPECT_THAT(node.dispatcher.Report(worker.id, {.batches_taken_max = 4}), IsOk());
    return worker;
  }

  static JobOrder Order(int32_t images, const std::string& request_id = "") {
    JobOrder order = {.tenant = "t", .request_id = request_id};
    order.images.prompts = {"a red circle"};
    order.images.first_seed = 5;
    order.images.seeds_per_prompt = images;
    order.images.tenant = "t";
    order.images.job_class = JobClass::kNormal;
    return order;
  }

  static absl::StatusOr<JobView> Create(CoordinatorNode& node, JobOrder order) {
    absl::StatusOr<JobView> view = absl::UnknownError("not answered");
    node.desk.Begin(std::move(order), [&](absl::StatusOr<JobDesk::Draft> draft) {
      if (draft.ok()) {
        node.desk.Submit(*draft, "content", [&](absl::StatusOr<JobView> job) { view = std::move(job); });
      } else {
        view = draft.status();
      }
    });
    node.RunStore();
    return view;
  }

  static absl::StatusOr<JobView> Get(CoordinatorNode& node, const std::string& id, const std::string& tenant = "t") {
    absl::StatusOr<JobView> view = absl::UnknownError("not answered");
    node.desk.Get(tenant, id, [&](absl::StatusOr<JobView> job) { view = std::move(job); });
    node.RunStore();
    return view;
  }

  static absl::StatusOr<JobView> Cancel(CoordinatorNode& node, const std::string& id) {
    absl::StatusOr<JobView> view = absl::UnknownError("not answered");
    node.desk.Cancel("t", id, [&](absl::StatusOr<JobView> job) { view = std::move(job); });
    node.RunStore();
    return view;
  }

  static absl::StatusOr<JobView> Release(CoordinatorNode& node, const std::string& id, WatchPosition position) {
    absl::StatusOr<JobView> view = absl::UnknownError("not answered");
    node.desk.Release("t", id, position, [&](absl::StatusOr<JobView> job) { view = std::move(job); });
    node.RunStore();
    return view;
  }

  static absl::Status Delete(CoordinatorNode& node, const std::string& id) {
    absl::Status status = absl::UnknownError("not answered");
    node.desk.Delete("t", id, [&](const absl::Status& answer) { status = answer; });
    node.RunStore();
    return status;
  }

  static absl::StatusOr<ResultReader::Result> Read(CoordinatorNode& node, const ResultReader::Request& request) {
    absl::StatusOr<ResultReader::Result> result = absl::UnknownError("not answered");
    node.reader.Start(request, [&](absl::StatusOr<ResultReader::Result> answer) { result = std::move(answer); });
    node.RunStore();
    return result;
  }

  // Delivers up to `max` images of those that the worker has; the results wait for the store.
  static int Deliver(CoordinatorNode& node, Worker& worker, int max = 1'000'000) {
    int delivered = 0;
    for (; worker.done < worker.sink->batches.size() && delivered < max; ++worker.done) {
      const BatchToRender batch = worker.sink->batches[worker.done];
      for (size_t slot = 0; slot < batch.images.size(); ++slot, ++delivered) {
        node.dispatcher.Deliver(worker.sink->welcome->token, batch.lease, static_cast<int32_t>(slot),
                                PictureOf(batch.images[slot].index));
      }
    }
    const auto taken = static_cast<int64_t>(worker.sink->batches.size());
    WorkerReport report = {.batches_taken_max = taken + 4};
    for (size_t i = worker.done; i < worker.sink->batches.size(); ++i) {
      report.leases.push_back(worker.sink->batches[i].lease);
    }
    if (taken > 0) report.last_lease_received = worker.sink->batches.back().lease;
    EXPECT_THAT(node.dispatcher.Report(worker.id, report), IsOk());
    return delivered;
  }

  static Picture PictureOf(int32_t index) {
    return {.content = absl::StrFormat("picture %06d", index),
            .pixel_sha256 = std::string(64, 'a'),
            .batch_size = 1,
            .prompt_tokens_cut = 0,
            .stages = {}};
  }

  void Step(CoordinatorNode& node, absl::Duration by = absl::Milliseconds(100)) {
    clock_.Advance(by);
    node.dispatcher.Tick();
    node.RunStore();
  }

  // Until the job has ended, or so many steps.
  absl::StatusOr<JobView> RunToEnd(CoordinatorNode& node, Worker& worker, const std::string& id, int steps = 500) {
    for (int i = 0; i < steps; ++i) {
      Step(node);
      Deliver(node, worker);
      node.RunStore();
      const absl::StatusOr<JobView> view = Get(node, id);
      if (view.ok() && view->record.state != JobState::kRunning) return view;
    }
    return Get(node, id);
  }

  // The indexes that a watch gets, read a few at a time from the beginning; each picture must be that of its index.
  std::vector<int32_t> ReadAll(CoordinatorNode& node, const JobRecord& job, bool ordered, int32_t at_once = 3) {
    std::vector<int32_t> indexes;
    int64_t position = 0;
    while (true) {
      const auto result = Read(node, {.job = job.id,
                                      .ordered = ordered,
                                      .position = position,
                                      .image_count = job.spec->ImageCount(),
                                      .images_max = at_once});
      EXPECT_THAT(result, IsOk());
      if (!result.ok() || result->images.empty()) return indexes;
      for (const ResultReader::Read& image : result->images) {
        const auto* finished = std::get_if<FinishedImage>(&image.outcome);
        if (finished == nullptr) {
          indexes.push_back(-1);
          continue;
        }
        EXPECT_EQ(finished->picture.content, PictureOf(finished->index).content);
        indexes.push_back(finished->index);
      }
      EXPECT_GT(result->position, position);
      position = result->position;
    }
  }

  SimulatedClock clock_{absl::FromUnixSeconds(1'000'000)};
  std::shared_ptr<InMemoryDatabase> database_ = std::make_shared<InMemoryDatabase>(clock_, absl::Seconds(5));
  MemoryDisk disk_;
  DurableObserver observer_;
  std::unique_ptr<Logger> logger_ = MakeNullLogger();
  int names_ = 0;
  std::vector<std::unique_ptr<CoordinatorNode>> nodes_;
};

}  // namespace turbofleet
