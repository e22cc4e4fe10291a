#include "worker/metrics/worker_metrics.h"

#include <map>

namespace turbofleet {
namespace {

using Labels = std::map<std::string, std::string>;

// From a demo model on a GPU to the full model on a few CPU cores.
const prometheus::Histogram::BucketBoundaries kSeconds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                          0.25,   0.5,   1,      2.5,   5,    10,    25};
const prometheus::Histogram::BucketBoundaries kImages = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

prometheus::Counter& AddCounter(prometheus::Registry* registry, const std::string& name, const std::string& help,
                                const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry).Add(labels);
}

prometheus::Gauge& AddGauge(prometheus::Registry* registry, const std::string& name, const std::string& help,
                            const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add(labels);
}

prometheus::Histogram& AddStage(prometheus::Registry* registry, const std::string& device, const std::string& stage) {
  return prometheus::BuildHistogram()
      .Name("turbofleet_worker_stage_seconds")
      .Help("Time of an image in a stage; a stage that a batch shares counts for each image with an equal part.")
      .Register(*registry)
      .Add({{"device", device}, {"stage", stage}}, kSeconds);
}

prometheus::Counter& AddReconnects(prometheus::Registry* registry, const std::string& device,
                                   const std::string& stream) {
  return AddCounter(registry, "turbofleet_worker_reconnects_total", "Streams that ended and were dialled again.",
                    {{"device", device}, {"stream", stream}});
}

prometheus::Counter* AddImages(prometheus::Registry* registry, const std::string& device, const std::string& outcome) {
  return &AddCounter(registry, "turbofleet_worker_images_total",
                     "Images by how they ended: accepted or refused by the coordinator, failed, or abandoned.",
                     {{"device", device}, {"outcome", outcome}});
}

}  // namespace

WorkerMetrics::WorkerMetrics(prometheus::Registry* registry, const std::string& device)
    : warm_up_(AddGauge(registry, "turbofleet_worker_warm_up_seconds", "Time that warming the engine took.",
                        {{"device", device}})),
      session_open_(AddGauge(registry, "turbofleet_worker_session_open",
                             "1 while a session with a coordinator is open.", {{"device", device}})),
      session_reconnects_(AddReconnects(registry, device, "session")),
      delivery_reconnects_(AddReconnects(registry, device, "delivery")),
      batches_(
          AddCounter(registry, "turbofleet_worker_batches_total", "Batches that were rendered.", {{"device", device}})),
      busy_(AddCounter(registry, "turbofleet_worker_device_busy_seconds_total", "Time that the device spent rendering.",
                       {{"device", device}})),
      batch_images_(prometheus::BuildHistogram()
                        .Name("turbofleet_worker_batch_images")
                        .Help("Images that were rendered together.")
                        .Register(*registry)
                        .Add({{"device", device}}, kImages)),
      text_(AddStage(registry, device, "text")),
      vae_encode_(AddStage(registry, device, "vae_encode")),
      unet_(AddStage(registry, device, "unet")),
      vae_decode_(AddStage(registry, device, "vae_decode")),
      file_encode_(AddStage(registry, device, "file_encode")),
      images_{AddImages(registry, device, "accepted"), AddImages(registry, device, "refused"),
              AddImages(registry, device, "failed"), AddImages(registry, device, "abandoned")},
      encoding_(AddGauge(registry, "turbofleet_worker_encode_queue_images",
                         "Rendered images that wait to be made into files.", {{"device", device}})),
      delivering_(AddGauge(registry, "turbofleet_worker_delivery_backlog_images",
                           "Results that the coordinator has not acknowledged.", {{"device", device}})),
      backlog_bytes_(AddGauge(registry, "turbofleet_worker_backlog_bytes",
                              "Bytes of the encode queue and the delivery backlog.", {{"device", device}})) {}

void WorkerMetrics::Warmed(absl::Duration took) { warm_up_.Set(absl::ToDoubleSeconds(took)); }

void WorkerMetrics::SessionChanged(bool open) { session_open_.Set(open ? 1 : 0); }

void WorkerMetrics::Reconnecting(std::string_view stream) {
  (stream == "session" ? session_reconnects_ : delivery_reconnects_).Increment();
}

void WorkerMetrics::BatchRendered(size_t images, absl::Duration busy) {
  batches_.Increment();
  busy_.Increment(absl::ToDoubleSeconds(busy));
  batch_images_.Observe(static_cast<double>(images));
}

void WorkerMetrics::ImageRendered(const StageTimes& times) {
  text_.Observe(absl::ToDoubleSeconds(times.text));
  if (times.encode > absl::ZeroDuration()) vae_encode_.Observe(absl::ToDoubleSeconds(times.encode));
  unet_.Observe(absl::ToDoubleSeconds(times.unet));
  vae_decode_.Observe(absl::ToDoubleSeconds(times.decode));
}

void WorkerMetrics::ImageEncoded(absl::Duration took) { file_encode_.Observe(absl::ToDoubleSeconds(took)); }

void WorkerMetrics::ImageEnded(ImageOutcome outcome) { images_[static_cast<size_t>(outcome)]->Increment(); }

void WorkerMetrics::BacklogChanged(int64_t encoding, int64_t delivering, int64_t bytes) {
  encoding_.Set(static_cast<double>(encoding));
  delivering_.Set(static_cast<double>(delivering));
  backlog_bytes_.Set(static_cast<double>(bytes));
}

}  // namespace turbofleet
