// Coordinators that crash, stop for a while, lose their database and jump in time, on what they share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/log.h"
#include "gtest/gtest.h"
#include "tests/coordinator/coordinator_node.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet {

// The randomness of a play, and what happened in it.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed), traced_(std::getenv("TURBOFLEET_SIMULATION_SEED") != nullptr) {}

  // 0 to max.
  int UpTo(int max) { return static_cast<int>(random_() % (static_cast<uint64_t>(max) + 1)); }
  bool Happens(int thousandths) { return UpTo(999) < thousandths; }

  template <typename... Words>
  void Trace(int step, const Words&... words) const {
    if (traced_) std::fprintf(stderr, "step %d: %s\n", step, absl::StrCat(words...).c_str());
  }

 private:
  std::mt19937_64 random_;
  const bool traced_;
};

// A steady clock that has jumped forwards.
class JumpyClock : public Clock {
 public:
  explicit JumpyClock(const Clock* base) : base_(base) {}
  absl::Time Now() const override { return base_->Now() + offset_; }
  void Jump(absl::Duration by) { offset_ += by; }

 private:
  const Clock* const base_;
  absl::Duration offset_;
};

// How much goes wrong, per step and coordinator, in thousandths.
struct CoordinatorFaults {
  int crash = 0;
  int pause = 0;    // It stands still, perhaps until others have taken over.
  int outage = 0;   // It cannot reach the database for a while.
  int flicker = 0;  // A transaction fails, or it is not heard of that it did not.
  int jump = 0;
  int disk_full = 0;
  int sync_fails = 0;
};

class SimulatedCoordinators {
 public:
  struct Coordinator {
    std::string name;
    int serial = 0;  // Of the life.
    std::unique_ptr<JumpyClock> clock;
    std::unique_ptr<CoordinatorNode> node;  // Null while it is down.
    int down_until = 0;
    int paused_until = 0;
    int outage_until = 0;
    int superseded_steps = 0;  // For which it has run without noticing.
    bool zombie = false;       // There is a newer life of it.
  };

  SimulatedCoordinators(Dice* dice, int count, bool shared, const Dispatcher::Options& options)
      : dice_(dice), shared_(shared), options_(options) {
    for (int i = 0; i < count; ++i) coordinators_.push_back({.name = absl::StrCat("c", i)});
  }

  void Step(int step, const CoordinatorFaults& faults) {
    step_ = step;
    clock_.Advance(absl::Milliseconds(100));
    if (dice_->Happens(faults.disk_full)) disk_full_until_ = step + dice_->UpTo(30);
    disk_.full = step < disk_full_until_;
    disk_.sync_fails = dice_->Happens(faults.sync_fails);
    for (size_t i = 0; i < coordinators_.size(); ++i) StepOne(i, faults);
    std::erase_if(coordinators_, [](const Coordinator& one) { return one.zombie && one.node == nullptr; });
  }

  bool Runs(const Coordinator& one) const { return one.node != nullptr && step_ >= one.paused_until; }
  // Null: that life is over. A node that stands still is there and does nothing.
  CoordinatorNode* Find(int serial) {
    for (Coordinator& one : coordinators_) {
      if (one.serial == serial && one.node != nullptr) return one.node.get();
    }
    return nullptr;
  }
  bool Runs(int serial) const {
    return std::any_of(coordinators_.begin(), coordinators_.end(),
                       [&](const Coordinator& one) { return one.serial == serial && Runs(one); });
  }
  // One that runs; 0 if none does.
  int Any() {
    std::vector<int> serials;
    for (const Coordinator& one : coordinators_) {
      if (Runs(one) && !one.zombie) serials.push_back(one.serial);
    }
    return serials.empty() ? 0 : serials[dice_->UpTo(static_cast<int>(serials.size()) - 1)];
  }

  // Or has no database.
  bool AnyStandsStill() const {
    return std::any_of(coordinators_.begin(), coordinators_.end(),
                       [this](const Coordinator& one) { return !Runs(one) || step_ < one.outage_until; });
  }
  // Everything that runs, for whoever looks for the cause of a failure.
  std::string Describe() const {
    std::string text;
    for (const auto& [id, job] : database_->Snapshot().jobs) {
      if (job->record.state != JobState::kRunning || !job->draft_of.empty()) continue;
      absl::StrAppend(&text, "\njob ", id, ": ", job->record.LastSequence(), " ended, released to ",
                      job->record.released_sequence, ", ", job->record.bytes_retained, " bytes; shards of");
      for (const auto& shard : job->shards) absl::StrAppend(&text, " ", shard.owner, "(", shard.ended.count(), ")");
    }
    for (const Coordinator& one : coordinators_) {
      absl::StrAppend(&text, "\n", one.name, " life ", one.serial, one.node == nullptr ? " down" : "");
      if (one.node == nullptr) continue;
      const ClusterState state = one.node->dispatcher.State();
      absl::StrAppend(&text, " jobs ", state.jobs_running, " queued ", state.load.images_queued, " leased ",
                      state.load.images_leased, " uncommitted ", state.bytes_uncommitted, " workers ",
                      state.workers.size());
    }
    return text;
  }

  InMemoryDatabase::State Database() const { return database_->Snapshot(); }
  MemoryDisk& disk() { return disk_; }
  std::vector<Coordinator>& all() { return coordinators_; }
  std::string NewName() {
    ++names_;
    return absl::StrFormat("%08x%024x", names_ * 2654435761u, names_);  // Their order is not that of their creation.
  }
  int step() const { return step_; }
  int64_t fenced() const { return fenced_; }
  int64_t crashed() const { return crashed_; }

 private:
  void StartLife(Coordinator& one) {
    one.serial = ++lives_;
    one.clock = std::make_unique<JumpyClock>(&clock_);
    one.superseded_steps = 0;
    one.paused_until = one.outage_until = 0;
    one.node = std::make_unique<CoordinatorNode>(CoordinatorNode::Options{.dispatcher = options_,
                                                                          .name = one.name,
                                                                          .life = absl::StrCat("l", one.serial),
                                                                          .shared = shared_,
                                                                          .pack_bytes_max = 400},
                                                 one.clock.get(), database_, &disk_, &observer_, logger_.get(),
                                                 [this] { return NewName(); });
    one.node->Recover();
    dice_->Trace(step_, one.name, " starts life ", one.serial);
  }

  bool Superseded(const Coordinator& one) const {
    const auto state = database_->Snapshot();
    const auto self = state.coordinators.find(one.name);
    return self == state.coordinators.end() || self->second.incarnation != one.node->life;
  }

  int64_t ResultsInStore() const {
    int64_t sum = 0;
    for (const auto& [id, job] : database_->Snapshot().jobs) sum += job->record.LastSequence();
    return sum;
  }

  void Crash(Coordinator& one) {
    ++crashed_;
    const std::string life = one.node->life;
    one.node.reset();
    disk_.LoseTails(life);
    one.down_until = step_ + dice_->UpTo(60);
    dice_->Trace(step_, one.name, " crashes");
  }

  void StepOne(size_t i, const CoordinatorFaults& faults) {
    if (coordinators_[i].node == nullptr) {
      if (!coordinators_[i].zombie && step_ >= coordinators_[i].down_until) StartLife(coordinators_[i]);
      return;
    }
    if (dice_->Happens(faults.crash)) {
      Crash(coordinators_[i]);
      return;
    }
    if (dice_->Happens(faults.pause)) {
      coordinators_[i].paused_until = step_ + 5 + dice_->UpTo(120);
      dice_->Trace(step_, coordinators_[i].name, " stands still until ", coordinators_[i].paused_until);
      // Perhaps somebody starts it anew, and the old one goes on later.
      if (dice_->Happens(300) && !coordinators_[i].zombie) {
        Coordinator newer = {.name = coordinators_[i].name};
        coordinators_[i].zombie = true;
        StartLife(newer);
        coordinators_.push_back(std::move(newer));
      }
    }
    Coordinator& one = coordinators_[i];
    if (!Runs(one)) return;
    if (dice_->Happens(faults.jump)) one.clock->Jump(absl::Seconds(dice_->UpTo(60)));
    if (dice_->Happens(faults.outage)) one.outage_until = step_ + dice_->UpTo(80);
    const bool outage = step_ < one.outage_until;
    const int flicker = faults.flicker;
    one.node->store.next_fault = [this, outage, flicker] {
      if (outage) return FaultyJobStore::Fault::kBefore;
      if (!dice_->Happens(flicker)) return FaultyJobStore::Fault::kNone;
      return dice_->Happens(500) ? FaultyJobStore::Fault::kBefore : FaultyJobStore::Fault::kAfter;
    };
    RunNode(one, outage);
  }

  void RunNode(Coordinator& one, bool outage) {
    const bool superseded = Superseded(one);
    const int64_t before = superseded ? ResultsInStore() : 0;
    one.node->dispatcher.Tick();
    one.node->RunStore();
    if (superseded) {
      EXPECT_EQ(ResultsInStore(), before) << one.name << " committed though it was superseded";
      if (!outage) ++one.superseded_steps;
      const bool tells = shared_ || one.node->queue.waiting() > 0;
      EXPECT_TRUE(one.node->fenced || !tells || one.superseded_steps < 40) << one.name << " does not notice its end";
    }
    EXPECT_TRUE(!one.node->fenced || superseded) << one.name << " was fenced by nobody";
    if (!one.node->fenced && one.superseded_steps < 60) return;
    ++fenced_;
    dice_->Trace(step_, one.name, " is fenced");
    const std::string life = one.node->life;
    one.node.reset();
    disk_.LoseTails(life);
    one.down_until = step_ + 1 + dice_->UpTo(20);
  }

  Dice* const dice_;
  const bool shared_;
  const Dispatcher::Options options_;
  SimulatedClock clock_{absl::FromUnixSeconds(1'000'000)};
  std::shared_ptr<InMemoryDatabase> database_ = std::make_shared<InMemoryDatabase>(clock_, absl::Seconds(5));
  MemoryDisk disk_;
  DispatchObserver observer_;
  std::unique_ptr<Logger> logger_ = MakeNullLogger();
  std::vector<Coordinator> coordinators_;
  int step_ = 0;
  int lives_ = 0;
  uint32_t names_ = 0;
  int disk_full_until_ = 0;
  int64_t fenced_ = 0;
  int64_t crashed_ = 0;
};

}  // namespace turbofleet
