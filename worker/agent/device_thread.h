// The thread at a device: owns the engine, renders one batch after the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/agent/work.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// What goes to the device: a batch, and which of its images.
struct DeviceJob {
  std::shared_ptr<Work> work;
  std::vector<size_t> images;  // Indices into work->images; their start pictures are there.
};

// Methods are thread-safe. Events come from the device's thread.
class DeviceThread {
 public:
  struct Events {
    // Once, before everything else. After an error nothing is rendered.
    std::function<void(const absl::Status&, absl::Duration took)> warmed;
    // The device starts a batch.
    std::function<void(const DeviceJob&)> started;
    // Once for each image of a job that was not abandoned: as the engine gives it, in any order. `image` is an index
    // into work->images, `batch_images` the number of images that were rendered together.
    std::function<void(const DeviceJob&, size_t image, size_t batch_images, absl::StatusOr<RenderedImage>)> image;
    // The job is off the device. An error: the device failed, its images have had their events, and nothing more is
    // rendered.
    std::function<void(const DeviceJob&, const absl::Status&, size_t batch_images, absl::Duration busy)> ended;
  };

  // Starts with warming up. REQUIRES: `clock` outlives it.
  DeviceThread(std::unique_ptr<Engine> engine, const Clock* clock, Events events);
  // Waits for the batch on the device; drops the others. Events end with it.
  ~DeviceThread();
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;

  const EngineInfo& info() const { return info_; }

  // Bounded by the agent's credit.
  void Render(DeviceJob job);

  // Takes back the jobs that have not started.
  std::vector<DeviceJob> TakeBack();

  // Asks the thread to show that it is alive. One that waits for work counts up; one that is lost in the engine does
  // not.
  void Tick();

  // Counts every sign of life: ticks, sampler steps, images.
  uint64_t progress() const { return progress_; }

  // Whether the engine is at work, so that the destructor would wait for it.
  bool busy() const { return busy_; }

  // Answers "abandoned" for every image from now on, so that the batch on the device ends soon.
  void AbandonAll() { abandon_all_ = true; }

 private:
  void Run();
  bool WaitForJob(DeviceJob* job);
  absl::Status RenderJob(DeviceJob job);

  const std::unique_ptr<Engine> engine_;
  const EngineInfo info_;
  const Clock* const clock_;
  const Events events_;
  std::atomic<uint64_t> progress_ = 0;
  std::atomic<bool> busy_ = true;
  std::atomic<bool> abandon_all_ = false;
  absl::Mutex mu_;
  absl::CondVar changed_;
  std::deque<DeviceJob> jobs_ ABSL_GUARDED_BY(mu_);
  bool tick_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // Last: it uses all of the above.
};

}  // namespace turbofleet
