#include "worker/agent/encoder_pool.h"

#include <algorithm>
#include <utility>

namespace turbofleet {

EncoderPool::EncoderPool(const Options& options) : options_(options) {
  for (int i = 0; i < std::max(options.threads, 1); ++i) threads_.emplace_back([this] { Work(); });
}

EncoderPool::~EncoderPool() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    added_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void EncoderPool::Run(std::function<void()> job) {
  absl::MutexLock lock(&mu_);
  while (jobs_.size() >= options_.queued_max) taken_.Wait(&mu_);
  jobs_.push_back(std::move(job));
  added_.Signal();
}

void EncoderPool::RunUnbounded(std::function<void()> job) {
  absl::MutexLock lock(&mu_);
  jobs_.push_back(std::move(job));
  added_.Signal();
}

size_t EncoderPool::queued() const {
  absl::MutexLock lock(&mu_);
  return jobs_.size();
}

void EncoderPool::Work() {
  absl::MutexLock lock(&mu_);
  while (true) {
    while (jobs_.empty() && !stopping_) added_.Wait(&mu_);
    if (jobs_.empty()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    taken_.Signal();
    mu_.Unlock();
    job();
    job = nullptr;  // What it holds goes before the lock comes back.
    mu_.Lock();
  }
}

}  // namespace turbofleet
