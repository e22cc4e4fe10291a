#include "worker/agent/device_thread.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace turbofleet {

DeviceThread::DeviceThread(std::unique_ptr<Engine> engine, const Clock* clock, Events events)
    : engine_(std::move(engine)), info_(engine_->Info()), clock_(clock), events_(std::move(events)), thread_([this] {
        Run();
      }) {}

DeviceThread::~DeviceThread() {
  AbandonAll();
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.Signal();
  }
  thread_.join();
}

void DeviceThread::Render(DeviceJob job) {
  absl::MutexLock lock(&mu_);
  jobs_.push_back(std::move(job));
  changed_.Signal();
}

std::vector<DeviceJob> DeviceThread::TakeBack() {
  std::vector<DeviceJob> jobs;
  absl::MutexLock lock(&mu_);
  for (DeviceJob& job : jobs_) jobs.push_back(std::move(job));
  jobs_.clear();
  return jobs;
}

void DeviceThread::Tick() {
  absl::MutexLock lock(&mu_);
  tick_ = true;
  changed_.Signal();
}

void DeviceThread::Run() {
  const absl::Time start = clock_->Now();
  absl::Status status = engine_->Warm();
  events_.warmed(status, clock_->Now() - start);
  busy_ = false;
  DeviceJob job;
  while (status.ok() && WaitForJob(&job)) {
    status = RenderJob(std::move(job));
    busy_ = false;
  }
}

bool DeviceThread::WaitForJob(DeviceJob* job) {
  absl::MutexLock lock(&mu_);
  while (!stopping_) {
    if (std::exchange(tick_, false)) ++progress_;
    if (!jobs_.empty()) {
      *job = std::move(jobs_.front());
      jobs_.pop_front();
      busy_ = true;
      return true;
    }
    changed_.Wait(&mu_);
  }
  return false;
}

absl::Status DeviceThread::RenderJob(DeviceJob job) {
  ++progress_;
  const auto unwanted = [&](size_t index) { return abandon_all_ || job.work->images[index]->abandoned; };
  RenderBatch batch = {.shape = job.work->shape, .requests = {}};
  std::vector<size_t> indices;
  for (const size_t index : job.images) {
    if (unwanted(index)) continue;
    indices.push_back(index);
    batch.requests.push_back(job.work->images[index]->request);
  }
  if (indices.empty()) {
    events_.ended(job, absl::OkStatus(), 0, absl::ZeroDuration());
    return absl::OkStatus();
  }
  std::vector<bool> seen(indices.size());
  const auto end = [&](size_t request, absl::StatusOr<RenderedImage> result) {
    ++progress_;
    if (request >= seen.size() || seen[request]) return;
    seen[request] = true;
    const size_t index = indices[request];
    if (unwanted(index)) result = absl::CancelledError("abandoned");
    events_.image(job, index, indices.size(), std::move(result));
  };
  events_.started(job);
  const absl::Time start = clock_->Now();
  const absl::Status status = engine_->Render(
      batch,
      [&](size_t request) {
        ++progress_;
        return request < indices.size() && unwanted(indices[request]);
      },
      end);
  const absl::Duration busy = clock_->Now() - start;
  for (size_t request = 0; request < indices.size(); ++request) {
    if (seen[request]) continue;
    end(request, status.ok() ? absl::InternalError("the engine gave no result")
                             : absl::UnavailableError(absl::StrCat("the device failed: ", status.message())));
  }
  events_.ended(job, status, indices.size(), busy);
  return status;
}

}  // namespace turbofleet
