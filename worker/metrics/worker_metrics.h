// What a worker tells Prometheus. The only place, with main.cc, that knows of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "worker/agent/observer.h"

namespace turbofleet {

// Counts for one device. Several share a registry.
class WorkerMetrics : public AgentObserver {
 public:
  // `device` is the label. REQUIRES: the registry outlives it, and no other has the same device.
  WorkerMetrics(prometheus::Registry* registry, const std::string& device);

  void Warmed(absl::Duration took) override;
  void SessionChanged(bool open) override;
  void Reconnecting(std::string_view stream) override;
  void BatchRendered(size_t images, absl::Duration busy) override;
  void ImageRendered(const StageTimes& times) override;
  void ImageEncoded(absl::Duration took) override;
  void ImageEnded(ImageOutcome outcome) override;
  void BacklogChanged(int64_t encoding, int64_t delivering, int64_t bytes) override;

 private:
  prometheus::Gauge& warm_up_;
  prometheus::Gauge& session_open_;
  prometheus::Counter& session_reconnects_;
  prometheus::Counter& delivery_reconnects_;
  prometheus::Counter& batches_;
  prometheus::Counter& busy_;
  prometheus::Histogram& batch_images_;
  prometheus::Histogram& text_;
  prometheus::Histogram& vae_encode_;
  prometheus::Histogram& unet_;
  prometheus::Histogram& vae_decode_;
  prometheus::Histogram& file_encode_;
  std::array<prometheus::Counter*, 4> images_;  // By ImageOutcome.
  prometheus::Gauge& encoding_;
  prometheus::Gauge& delivering_;
  prometheus::Gauge& backlog_bytes_;
};

}  // namespace turbofleet
