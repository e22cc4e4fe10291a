// An engine that waits for the test at every batch.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/worker/agent/fake_coordinator.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// What the engine does, told from the test's thread. Thread-safe. Outlives the engine.
class EngineScript {
 public:
  EngineInfo info = {.model_name = "scripted",
                     .model_digest = "sha256:" + std::string(64, 'a'),
                     .device = "cpu",
                     .device_name = "a script",
                     .precision = "float32",
                     .default_width = 64,
                     .default_height = 64,
                     .size_max = 128,
                     .batch_images_max = 4,
                     .has_tiny_vae = false};

  // Before anything is started.
  void HoldWarmUp() {
    Change([this] {
      mu_.AssertHeld();
      warm_held_ = true;
    });
  }
  void FinishWarmUp(const absl::Status& status) {
    Change([&] {
      mu_.AssertHeld();
      warm_held_ = false;
      warm_status_ = status;
    });
  }

  // Batches wait on the device until they are let go.
  void Hold() {
    Change([this] {
      mu_.AssertHeld();
      held_ = true;
    });
  }
  void LetOneGo() {
    Change([this] {
      mu_.AssertHeld();
      ++permits_;
    });
  }
  void LetAllGo() {
    Change([this] {
      mu_.AssertHeld();
      held_ = false;
    });
  }
  // The batch on the device comes to a sampler step, where it looks whether it is still wanted.
  void Step() {
    Change([this] {
      mu_.AssertHeld();
      ++steps_;
    });
  }

  // How the images of a seed end; they are fine otherwise.
  void FailSeed(uint32_t seed, const absl::Status& status) {
    Change([&] {
      mu_.AssertHeld();
      failures_[seed] = status;
    });
  }
  // The next batch fails as a whole, after `images` of its images.
  void FailDevice(const absl::Status& status, size_t images) {
    Change([&] {
      mu_.AssertHeld();
      device_status_ = status;
      images_before_failure_ = images;
    });
  }

  bool AwaitStarted(size_t batches) {
    return Await([this, batches] {
      mu_.AssertHeld();
      return started_.size() >= batches;
    });
  }
  bool AwaitEnded(size_t batches) {
    return Await([this, batches] {
      mu_.AssertHeld();
      return ended_ >= batches;
    });
  }
  std::vector<RenderBatch> started() const {
    absl::MutexLock lock(&mu_);
    return started_;
  }

 private:
  friend class ScriptedEngine;

  template <typename F>
  void Change(F change) {
    absl::MutexLock lock(&mu_);
    change();
  }
  bool Await(const std::function<bool()>& condition) {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&condition), kPatience);
  }

  mutable absl::Mutex mu_;
  bool warm_held_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status warm_status_ ABSL_GUARDED_BY(mu_);
  bool held_ ABSL_GUARDED_BY(mu_) = false;
  int permits_ ABSL_GUARDED_BY(mu_) = 0;
  int steps_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<uint32_t, absl::Status> failures_ ABSL_GUARDED_BY(mu_);
  absl::Status device_status_ ABSL_GUARDED_BY(mu_);
  size_t images_before_failure_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<RenderBatch> started_ ABSL_GUARDED_BY(mu_);
  size_t ended_ ABSL_GUARDED_BY(mu_) = 0;
};

class ScriptedEngine : public Engine {
 public:
  explicit ScriptedEngine(EngineScript* script) : script_(script) {}

  const EngineInfo& Info() const override { return script_->info; }

  absl::Status Warm() override {
    absl::MutexLock lock(&script_->mu_);
    const auto warm = [this] {
      script_->mu_.AssertHeld();
      return !script_->warm_held_;
    };
    script_->mu_.Await(absl::Condition(&warm));
    return script_->warm_status_;
  }

  absl::Status Render(const RenderBatch& batch, const RenderAbandoned& abandoned, const RenderDone& done) override {
    {
      absl::MutexLock lock(&script_->mu_);
      script_->started_.push_back(batch);
    }
    const absl::Status status = WaitAndRender(batch, abandoned, done);
    absl::MutexLock lock(&script_->mu_);
    ++script_->ended_;
    return status;
  }

 private:
  // Returns whether the batch was let go; otherwise it has come to a step.
  bool WaitForScript() {
    absl::MutexLock lock(&script_->mu_);
    const auto changed = [this] {
      script_->mu_.AssertHeld();
      return !script_->held_ || script_->permits_ > 0 || script_->steps_ > 0;
    };
    script_->mu_.Await(absl::Condition(&changed));
    if (!script_->held_) return true;
    if (script_->steps_ > 0) {
      --script_->steps_;
      return false;
    }
    --script_->permits_;
    return true;
  }

  absl::Status WaitAndRender(const RenderBatch& batch, const RenderAbandoned& abandoned, const RenderDone& done) {
    std::set<size_t> left;
    for (size_t i = 0; i < batch.requests.size(); ++i) left.insert(i);
    while (!left.empty() && !WaitForScript()) {
      for (auto image = left.begin(); image != left.end();) {
        if (abandoned(*image)) {
          done(*image, absl::CancelledError("abandoned"));
          image = left.erase(image);
        } else {
          ++image;
        }
      }
    }
    absl::Status device;
    size_t images = 0;
    {
      absl::MutexLock lock(&script_->mu_);
      device = std::exchange(script_->device_status_, absl::OkStatus());
      images = script_->images_before_failure_;
    }
    for (const size_t image : left) {
      if (!device.ok() && images-- == 0) return device;
      done(image, Picture(batch, image));
    }
    return device;
  }

  absl::StatusOr<RenderedImage> Picture(const RenderBatch& batch, size_t request) {
    const RenderRequest& wanted = batch.requests[request];
    {
      absl::MutexLock lock(&script_->mu_);
      const auto failure = script_->failures_.find(wanted.seed);
      if (failure != script_->failures_.end()) return failure->second;
    }
    RenderedImage rendered;
    rendered.image.width = batch.shape.width;
    rendered.image.height = batch.shape.height;
    rendered.image.pixels.assign(static_cast<size_t>(batch.shape.width) * batch.shape.height * 3,
                                 static_cast<uint8_t>(wanted.seed));
    rendered.times.unet = absl::Milliseconds(5);
    rendered.prompt_tokens_cut = 3;
    return rendered;
  }

  EngineScript* const script_;
};

}  // namespace turbofleet
