// What the coordinator tells Prometheus. The only place, with main.cc, that knows of it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/observer.h"
#include "coordinator/service/rpc_observer.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace turbofleet {

// Counts images and batches. Labels have few values by construction: what workers name freely is mapped to "other".
class DispatchMetrics : public DispatchObserver {
 public:
  explicit DispatchMetrics(prometheus::Registry* registry);

  void OnImageFinished(const JobSpec& spec, const FinishedImage& image) override;
  void OnImageFailed(const JobSpec& spec, const UnfinishedImage& image) override;
  void OnImagesCancelled(const JobSpec& spec, int64_t images) override;
  void OnBatch(const BatchToRender& batch) override;
  void OnRetry(RetryReason reason, int64_t images) override;
  void OnLateDelivery() override;

 private:
  prometheus::Family<prometheus::Counter>& images_;
  prometheus::Family<prometheus::Counter>& failures_;
  prometheus::Family<prometheus::Counter>& retries_;
  prometheus::Family<prometheus::Histogram>& stages_;
  prometheus::Counter& late_deliveries_;
  prometheus::Counter& content_bytes_;
  prometheus::Histogram& queue_wait_;
  prometheus::Histogram& batch_size_;
  prometheus::Counter& completed_;
  prometheus::Counter& failed_;
  prometheus::Counter& cancelled_;
  prometheus::Histogram& text_;
  prometheus::Histogram& vae_encode_;
  prometheus::Histogram& unet_;
  prometheus::Histogram& vae_decode_;
  prometheus::Histogram& file_encode_;
  prometheus::Histogram& transport_;
};

// Counts calls under the names that stock gRPC dashboards read.
class RpcMetrics : public RpcObserver {
 public:
  explicit RpcMetrics(prometheus::Registry* registry);

  void OnStarted(const Method& method) override;
  void OnHandled(const Method& method, grpc::StatusCode code, absl::Duration duration) override;
  void OnRefused(const std::string& reason) override;

 private:
  prometheus::Family<prometheus::Counter>& started_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Histogram>& handling_;
  prometheus::Family<prometheus::Counter>& rejected_;
};

// Reads the cluster's state at each scrape.
class StateCollector : public prometheus::Collectable {
 public:
  // `dispatcher` outlives it.
  explicit StateCollector(const Dispatcher* dispatcher) : dispatcher_(dispatcher) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Dispatcher* const dispatcher_;
};

}  // namespace turbofleet
