// Workers that dial, render, die, fall silent, hang, drain, and deliver late or twice. A picture's content is that of
// its job and index, whoever makes it.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/fake_sinks.h"
#include "tests/simulation/simulated_coordinators.h"

namespace turbofleet {

struct WorkerFaults {
  int kill = 0;
  int silence = 0;
  int hang = 0;
  int drain = 0;
  int deliver_late = 0;
  int deliver_twice = 0;
  int fail = 0;
  int refuse = 0;
};

inline std::string SimulatedPicture(const std::string& job_name, int32_t index) {
  return absl::StrCat(job_name, "#", index);
}

class SimulatedWorkers {
 public:
  SimulatedWorkers(Dice* dice, SimulatedCoordinators* coordinators, int count)
      : dice_(dice), coordinators_(coordinators), workers_(count) {
    for (int i = 0; i < count; ++i) workers_[i].name = absl::StrCat("w", i);
  }

  // Workers die of this image of every job.
  void SetPoison(int32_t index) { poison_ = index; }
  int crashes() const { return crashes_; }

  void Step(const WorkerFaults& faults) {
    for (Worker& worker : workers_) StepOne(worker, faults);
    std::deque<Late> waiting;
    for (Late& late : late_) {
      if (late.steps-- > 0) {
        waiting.push_back(std::move(late));
      } else if (coordinators_->Runs(late.serial)) {
        coordinators_->Find(late.serial)
            ->dispatcher.Deliver(late.token, late.lease, late.slot, std::move(late.outcome));
      }
    }
    late_ = std::move(waiting);
  }

 private:
  struct Held {
    LeaseId id{};
    std::map<int32_t, ImageToRender> images;  // By slot; those that are not delivered.
  };
  struct Worker {
    std::string name;
    int serial = 0;  // Of the coordinator's life; 0: not connected.
    SessionId session{};
    std::shared_ptr<FakeSession> sink;
    size_t batches_seen = 0, abandoned_seen = 0;
    int64_t taken_max = 2;
    LeaseId last_lease{};
    std::deque<Held> held;
    uint64_t progress = 0;
    int silent_until = 0, hangs_until = 0;
    bool draining = false;
  };
  struct Late {
    int serial = 0;
    std::string token;
    LeaseId lease{};
    int32_t slot = 0;
    RenderOutcome outcome;
    int steps = 0;
  };

  void Dial(Worker& worker) {
    const std::string name = worker.name;
    worker = Worker{.name = name};
    const int serial = coordinators_->Any();
    if (serial == 0) return;
    worker.sink = std::make_shared<FakeSession>();
    const absl::StatusOr<SessionId> session =
        coordinators_->Find(serial)->dispatcher.OpenSession({.name = name,
                                                             .version = "1",
                                                             .model_name = "a",
                                                             .model_digest = "sha256:a",
                                                             .device = "cpu",
                                                             .device_name = "cpu",
                                                             .precision = "float32",
                                                             .default_width = 64,
                                                             .default_height = 64,
                                                             .size_max = 512,
                                                             .batch_images_max = 8},
                                                            worker.sink);
    if (!session.ok()) return;
    worker.session = *session;
    worker.serial = serial;
  }

  void StepOne(Worker& worker, const WorkerFaults& faults) {
    CoordinatorNode* node = worker.serial == 0 ? nullptr : coordinators_->Find(worker.serial);
    if (node == nullptr || worker.sink->closed.has_value()) {
      Dial(worker);
      node = worker.serial == 0 ? nullptr : coordinators_->Find(worker.serial);
    }
    if (node == nullptr || !coordinators_->Runs(worker.serial)) return;
    const int step = coordinators_->step();
    if (dice_->Happens(faults.kill)) {
      Die(worker, *node);
      return;
    }
    if (dice_->Happens(faults.silence)) worker.silent_until = step + dice_->UpTo(80);
    if (dice_->Happens(faults.hang)) worker.hangs_until = step + dice_->UpTo(120);
    if (step < worker.silent_until) return;
    Receive(worker);
    if (!worker.draining && dice_->Happens(faults.drain)) {
      worker.draining = true;
      while (worker.held.size() > 1) worker.held.pop_back();
    }
    if (step >= worker.hangs_until && !Render(worker, *node, faults)) return;
    Report(worker, *node);
  }

  void Die(Worker& worker, CoordinatorNode& node) {
    dice_->Trace(coordinators_->step(), worker.name, " dies");
    node.dispatcher.EndSession(worker.session, absl::CancelledError("killed"));
    worker.serial = 0;
  }

  static void Receive(Worker& worker) {
    for (; worker.batches_seen < worker.sink->batches.size(); ++worker.batches_seen) {
      const BatchToRender& batch = worker.sink->batches[worker.batches_seen];
      Held held = {.id = batch.lease};
      for (size_t slot = 0; slot < batch.images.size(); ++slot) {
        held.images.emplace(static_cast<int32_t>(slot), batch.images[slot]);
      }
      worker.last_lease = batch.lease;
      worker.held.push_back(std::move(held));
    }
    ASSERT_LE(static_cast<int64_t>(worker.batches_seen), worker.taken_max) << "more than the worker granted";
    for (; worker.abandoned_seen < worker.sink->abandoned.size(); ++worker.abandoned_seen) {
      const auto& [id, slots] = worker.sink->abandoned[worker.abandoned_seen];
      for (Held& held : worker.held) {
        if (held.id != id) continue;
        for (const int32_t slot : slots) held.images.erase(slot);
        if (slots.empty()) held.images.clear();
      }
    }
  }

  // One batch. False: the worker died of it.
  bool Render(Worker& worker, CoordinatorNode& node, const WorkerFaults& faults) {
    if (worker.held.empty()) return true;
    Held held = worker.held.front();
    for (const auto& [slot, image] : held.images) {
      if (image.index == poison_) {
        ++crashes_;
        Report(worker, node, /*started=*/true);
        Die(worker, node);
        return false;
      }
    }
    for (const auto& [slot, image] : held.images) Deliver(worker, node, held.id, slot, image, faults);
    ++worker.progress;
    ++worker.taken_max;
    worker.held.pop_front();
    return true;
  }

  void Deliver(Worker& worker, CoordinatorNode& node, LeaseId lease, int32_t slot, const ImageToRender& image,
               const WorkerFaults& faults) {
    RenderOutcome outcome = Picture{.content = SimulatedPicture(image.spec->name, image.index),
                                    .pixel_sha256 = "",
                                    .batch_size = 1,
                                    .prompt_tokens_cut = 0,
                                    .stages = {}};
    EXPECT_EQ(image.prompt, absl::StrCat("prompt ", image.spec->PromptIndexOf(image.index)));
    if (dice_->Happens(faults.fail)) outcome = RenderError{absl::StatusCode::kInternal, "IMAGE_NOT_FINITE", ""};
    if (dice_->Happens(faults.refuse)) outcome = RenderError{absl::StatusCode::kInvalidArgument, "REFUSED", ""};
    const std::string& token = worker.sink->welcome->token;
    if (dice_->Happens(faults.deliver_late)) {
      late_.push_back({worker.serial, token, lease, slot, outcome, dice_->UpTo(40)});
      return;
    }
    node.dispatcher.Deliver(token, lease, slot, outcome);
    if (dice_->Happens(faults.deliver_twice)) node.dispatcher.Deliver(token, lease, slot, outcome);
  }

  void Report(Worker& worker, CoordinatorNode& node, bool started = false) {
    WorkerReport report = {.batches_taken_max = worker.taken_max,
                           .last_lease_received = worker.last_lease,
                           .draining = worker.draining,
                           .progress = worker.progress};
    for (const Held& held : worker.held) report.leases.push_back(held.id);
    if (started) report.started.push_back(worker.held.front().id);
    const absl::Status status = node.dispatcher.Report(worker.session, report);
    EXPECT_TRUE(status.ok() || worker.sink->closed.has_value()) << status;
    if (worker.draining && worker.held.empty()) {
      node.dispatcher.EndSession(worker.session, absl::OkStatus());
      worker.serial = 0;
    }
  }

  Dice* const dice_;
  SimulatedCoordinators* const coordinators_;
  std::vector<Worker> workers_;
  std::deque<Late> late_;
  int32_t poison_ = -1;
  int crashes_ = 0;
};

}  // namespace turbofleet
