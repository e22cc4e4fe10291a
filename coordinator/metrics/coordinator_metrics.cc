#include "coordinator/metrics/coordinator_metrics.h"

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace turbofleet {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// From a stage on a large GPU to a queue on a small CPU.
const Buckets kSecondsBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,  0.25,
                                 0.5,    1.0,   2.5,    5.0,   10.0, 30.0,  60.0, 300.0};
const Buckets kBatchBuckets = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1'024};

prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry* registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}

prometheus::Family<prometheus::Histogram>& Histograms(prometheus::Registry* registry, const char* name,
                                                      const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry);
}

prometheus::Histogram& Stage(prometheus::Family<prometheus::Histogram>& family, const char* stage) {
  return family.Add({{"stage", stage}}, kSecondsBuckets);
}

// A worker may name a reason as it likes; a label may not have as many values as it likes.
const char* KnownReason(std::string_view reason) {
  static constexpr std::array kKnown = {"WORKER_LOST",          "WORKER_STUCK",    "WORKER_RELEASED",
                                        "RENDER_FAILED",        "IMAGE_TOO_LARGE", "INVALID_FIELD",
                                        "DEVICE_OUT_OF_MEMORY", "DEVICE_FAILED",   "INPUT_UNAVAILABLE"};
  for (const char* known : kKnown) {
    if (reason == known) return known;
  }
  return "OTHER";
}

const char* CodeName(grpc::StatusCode code) {
  static constexpr std::array kNames = {
      "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
      "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
      "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
      "DataLoss", "Unauthenticated"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "Unknown";
}

prometheus::Labels LabelsOf(const RpcObserver::Method& method) {
  return {{"grpc_type", method.type}, {"grpc_service", method.service}, {"grpc_method", method.method}};
}

prometheus::MetricFamily Gauges(const char* name, const char* help,
                                const std::vector<std::pair<prometheus::Labels, double>>& values) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = prometheus::MetricType::Gauge;
  for (const auto& [labels, value] : values) {
    prometheus::ClientMetric metric;
    for (const auto& [label, text] : labels) metric.label.push_back({label, text});
    metric.gauge.value = value;
    family.metric.push_back(std::move(metric));
  }
  return family;
}

}  // namespace

DispatchMetrics::DispatchMetrics(prometheus::Registry* registry)
    : images_(Counters(registry, "turbofleet_images_total", "Images that ended, by how.")),
      failures_(Counters(registry, "turbofleet_image_failures_total", "Images that failed for good, by reason.")),
      retries_(Counters(registry, "turbofleet_image_retries_total", "Images that went back to the queue, by reason.")),
      stages_(
          Histograms(registry, "turbofleet_stage_seconds", "Time of an image in each stage, as its worker measured.")),
      late_deliveries_(Counters(registry, "turbofleet_late_deliveries_total",
                                "Deliveries for a lease that did not hold the image any more.")
                           .Add({})),
      content_bytes_(
          Counters(registry, "turbofleet_image_content_bytes_total", "Bytes of the files of finished images.").Add({})),
      queue_wait_(
          Histograms(registry, "turbofleet_queue_wait_seconds", "From an image's admission until a worker had it.")
              .Add({}, kSecondsBuckets)),
      batch_size_(
          Histograms(registry, "turbofleet_batch_size", "Images in a batch that was leased.").Add({}, kBatchBuckets)),
      completed_(images_.Add({{"result", "completed"}})),
      failed_(images_.Add({{"result", "failed"}})),
      cancelled_(images_.Add({{"result", "cancelled"}})),
      text_(Stage(stages_, "text")),
      vae_encode_(Stage(stages_, "vae_encode")),
      unet_(Stage(stages_, "unet")),
      vae_decode_(Stage(stages_, "vae_decode")),
      file_encode_(Stage(stages_, "file_encode")),
      transport_(Stage(stages_, "transport")) {}

void DispatchMetrics::OnImageFinished(const JobSpec& spec, const FinishedImage& image) {
  completed_.Increment();
  content_bytes_.Increment(static_cast<double>(image.picture.content.size()));
  queue_wait_.Observe(absl::ToDoubleSeconds(image.queue_wait));
  const StageDurations& stages = image.picture.stages;
  text_.Observe(absl::ToDoubleSeconds(stages.text));
  if (spec.shape.image_to_image) vae_encode_.Observe(absl::ToDoubleSeconds(stages.vae_encode));
  unet_.Observe(absl::ToDoubleSeconds(stages.unet));
  vae_decode_.Observe(absl::ToDoubleSeconds(stages.vae_decode));
  file_encode_.Observe(absl::ToDoubleSeconds(stages.file_encode));
  transport_.Observe(absl::ToDoubleSeconds(stages.transport));
}

void DispatchMetrics::OnImageFailed(const JobSpec& /*spec*/, const UnfinishedImage& image) {
  failed_.Increment();
  failures_.Add({{"reason", KnownReason(image.error.reason)}}).Increment();
}

void DispatchMetrics::OnImagesCancelled(const JobSpec& /*spec*/, int64_t images) {
  cancelled_.Increment(static_cast<double>(images));
}

void DispatchMetrics::OnBatch(const BatchToRender& batch) {
  batch_size_.Observe(static_cast<double>(batch.images.size()));
}

void DispatchMetrics::OnRetry(RetryReason reason, int64_t images) {
  retries_.Add({{"reason", ReasonName(reason)}}).Increment(static_cast<double>(images));
}

void DispatchMetrics::OnLateDelivery() { late_deliveries_.Increment(); }

RpcMetrics::RpcMetrics(prometheus::Registry* registry)
    : started_(Counters(registry, "grpc_server_started_total", "Calls that were started.")),
      handled_(Counters(registry, "grpc_server_handled_total", "Calls that ended, by code.")),
      handling_(Histograms(registry, "grpc_server_handling_seconds", "How long calls took, streams to their end.")),
      rejected_(Counters(registry, "turbofleet_rejected_total", "Requests for images that were refused, by reason.")) {}

void RpcMetrics::OnStarted(const Method& method) { started_.Add(LabelsOf(method)).Increment(); }

void RpcMetrics::OnHandled(const Method& method, grpc::StatusCode code, absl::Duration duration) {
  prometheus::Labels labels = LabelsOf(method);
  handling_.Add(labels, kSecondsBuckets).Observe(absl::ToDoubleSeconds(duration));
  labels["grpc_code"] = CodeName(code);
  handled_.Add(labels).Increment();
}

void RpcMetrics::OnRefused(const std::string& reason) { rejected_.Add({{"reason", reason}}).Increment(); }

std::vector<prometheus::MetricFamily> StateCollector::Collect() const {
  const ClusterState state = dispatcher_->State();
  double idle = 0, busy = 0, draining = 0, stuck = 0;
  for (const WorkerState& worker : state.workers) {
    double& kind = worker.load.stuck               ? stuck
                   : worker.load.draining          ? draining
                   : worker.load.images_leased > 0 ? busy
                                                   : idle;
    ++kind;
  }
  return {
      Gauges("turbofleet_queue_depth", "Images that wait for a worker.",
             {{{}, static_cast<double>(state.images_waiting)}}),
      Gauges("turbofleet_queue_depth_max", "The most images of calls that may wait.",
             {{{}, static_cast<double>(state.images_queued_max)}}),
      Gauges("turbofleet_queue_oldest_age_seconds", "How long the oldest waiting image has waited.",
             {{{}, absl::ToDoubleSeconds(state.load.oldest_queued_age)}}),
      Gauges("turbofleet_inflight_images", "Images that workers have.",
             {{{}, static_cast<double>(state.load.images_leased)}}),
      Gauges("turbofleet_jobs", "Calls by whether images are missing or the client has to take the last ones.",
             {{{{"state", "running"}}, static_cast<double>(state.calls_running)},
              {{{"state", "sending"}}, static_cast<double>(state.calls_open - state.calls_running)}}),
      Gauges("turbofleet_durable_jobs", "Durable jobs that run.", {{{}, static_cast<double>(state.jobs_running)}}),
      Gauges("turbofleet_retained_bytes", "Bytes of pictures of durable jobs that are kept for their clients.",
             {{{}, static_cast<double>(state.bytes_retained)}}),
      Gauges("turbofleet_uncommitted_bytes", "Bytes of pictures of durable jobs that are not in the store yet.",
             {{{}, static_cast<double>(state.bytes_uncommitted)}}),
      Gauges("turbofleet_workers", "Workers that are connected, by state.",
             {{{{"state", "idle"}}, idle},
              {{{"state", "busy"}}, busy},
              {{{"state", "draining"}}, draining},
              {{{"state", "stuck"}}, stuck}}),
      Gauges("turbofleet_draining", "Whether the coordinator takes no new work.", {{{}, state.draining ? 1.0 : 0.0}}),
  };
}

}  // namespace turbofleet
