#include "coordinator/service/translate.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/version.h"

namespace turbofleet {
namespace {

namespace worker_pb = internal::worker::v1;

// A job may have a hundred million; as Job.accepted documents.
constexpr int32_t kJobSeedsMax = 16;

void Set(google::protobuf::Duration* proto, absl::Duration duration) {
  proto->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

void Set(google::protobuf::Timestamp* proto, absl::Time time) {
  absl::Duration rest = time - absl::UnixEpoch();
  proto->set_seconds(absl::IDivDuration(rest, absl::Seconds(1), &rest));
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

v1::ImageFormat FormatProto(FileFormat format) {
  switch (format) {
    case FileFormat::kPng:
      return v1::IMAGE_FORMAT_PNG;
    case FileFormat::kJpeg:
      return v1::IMAGE_FORMAT_JPEG;
    case FileFormat::kWebp:
      return v1::IMAGE_FORMAT_WEBP;
    case FileFormat::kRaw:
      return v1::IMAGE_FORMAT_RAW;
  }
  return v1::IMAGE_FORMAT_UNSPECIFIED;
}

v1::Job::State StateProto(JobState state) {
  switch (state) {
    case JobState::kRunning:
      return v1::Job::STATE_RUNNING;
    case JobState::kCompleted:
      return v1::Job::STATE_COMPLETED;
    case JobState::kCancelled:
      return v1::Job::STATE_CANCELLED;
    case JobState::kExpired:
      return v1::Job::STATE_EXPIRED;
  }
  return v1::Job::STATE_UNSPECIFIED;
}

v1::Priority PriorityProto(JobClass job_class) {
  switch (job_class) {
    case JobClass::kInteractive:
      return v1::PRIORITY_INTERACTIVE;
    case JobClass::kNormal:
      return v1::PRIORITY_NORMAL;
    case JobClass::kBulk:
      return v1::PRIORITY_BULK;
  }
  return v1::PRIORITY_UNSPECIFIED;
}

void SetBatchImage(const ImageToRender& to_render, worker_pb::BatchImage* image) {
  const JobSpec& spec = *to_render.spec;
  image->set_prompt(to_render.prompt);
  image->set_negative_prompt(spec.negative_prompt);
  image->set_guidance_scale(spec.guidance_scale);
  image->set_seed(spec.SeedOf(to_render.index));
  image->set_init_image_sha256(spec.init_image_sha256);
  image->set_format(FormatProto(spec.format));
  image->set_quality(spec.quality);
  image->set_embed_metadata(spec.embed_metadata);
  image->set_strength(spec.strength);
  if (!to_render.durable) return;
  image->set_job(spec.name);
  image->set_index(to_render.index);
}

}  // namespace

v1::Accepted AcceptedProto(const JobSpec& spec, int32_t seeds_max) {
  v1::Accepted accepted;
  accepted.set_job(spec.name);
  accepted.set_image_count(spec.ImageCount());
  accepted.set_width(spec.shape.width);
  accepted.set_height(spec.shape.height);
  accepted.set_steps(spec.shape.steps);
  const int32_t seeds = std::min(spec.seeds_per_prompt, seeds_max);
  for (int32_t i = 0; i < seeds; ++i) accepted.add_seeds(spec.SeedOf(i));
  accepted.set_strength(spec.shape.image_to_image ? spec.strength : 1.0);
  accepted.set_model_digest(spec.model_digest);
  accepted.set_model_name(spec.model_name);
  return accepted;
}

v1::Image ImageProto(const JobSpec& spec, FinishedImage finished) {
  v1::Image image;
  image.set_name(absl::StrCat(spec.name, "/images/", finished.index));
  image.set_index(finished.index);
  image.set_prompt_index(spec.PromptIndexOf(finished.index));
  image.set_seed(spec.SeedOf(finished.index));
  image.set_width(spec.shape.width);
  image.set_height(spec.shape.height);
  image.set_format(FormatProto(spec.format));
  image.set_content(std::move(finished.picture.content));
  image.set_pixel_sha256(std::move(finished.picture.pixel_sha256));
  image.set_model_digest(spec.model_digest);
  image.set_worker(absl::StrCat("workers/", finished.worker));
  image.set_attempt(finished.attempt);
  image.set_batch_size(finished.picture.batch_size);
  image.set_prompt_tokens_cut(finished.picture.prompt_tokens_cut);
  v1::ImageTimes& times = *image.mutable_times();
  const StageDurations& stages = finished.picture.stages;
  Set(times.mutable_queue(), finished.queue_wait);
  Set(times.mutable_text(), stages.text);
  Set(times.mutable_vae_encode(), stages.vae_encode);
  Set(times.mutable_unet(), stages.unet);
  Set(times.mutable_vae_decode(), stages.vae_decode);
  Set(times.mutable_file_encode(), stages.file_encode);
  Set(times.mutable_transport(), stages.transport);
  return image;
}

v1::ImageFailure FailureProto(const JobSpec& spec, const UnfinishedImage& image) {
  v1::ImageFailure failure;
  failure.set_index(image.index);
  failure.set_prompt_index(spec.PromptIndexOf(image.index));
  failure.set_seed(spec.SeedOf(image.index));
  failure.set_code(static_cast<int>(image.error.code));
  failure.set_reason(image.error.reason);
  failure.set_message(image.error.message);
  failure.set_attempts(image.attempts);
  return failure;
}

v1::Job JobProto(const JobView& view) {
  const JobRecord& record = view.record;
  const JobSpec& spec = *record.spec;
  v1::Job job;
  job.set_name(spec.name);
  job.set_state(StateProto(record.state));
  *job.mutable_accepted() = AcceptedProto(spec, kJobSeedsMax);
  job.set_prompt_count(spec.prompt_count);
  job.set_seeds_per_prompt(spec.seeds_per_prompt);
  job.set_image_count(spec.ImageCount());
  job.set_images_completed(record.images_completed);
  job.set_images_failed(record.images_failed);
  job.set_bytes_retained(record.bytes_retained);
  job.set_waits_for_release(view.waits_for_release);
  job.set_priority(PriorityProto(spec.job_class));
  job.mutable_labels()->insert(spec.labels.begin(), spec.labels.end());
  Set(job.mutable_create_time(), record.create_time);
  if (record.deadline != absl::InfiniteFuture()) Set(job.mutable_deadline(), record.deadline);
  if (record.end_time != absl::InfiniteFuture()) Set(job.mutable_end_time(), record.end_time);
  if (record.delete_time != absl::InfiniteFuture()) Set(job.mutable_delete_time(), record.delete_time);
  job.set_request_id(record.request_id);
  return job;
}

v1::Cluster ClusterProto(const ClusterState& state) {
  v1::Cluster cluster;
  cluster.set_version(TURBOFLEET_VERSION);
  Set(cluster.mutable_start_time(), state.start_time);
  cluster.set_draining(state.draining);
  std::map<std::string, v1::Model> models;
  int draining = 0;
  for (const WorkerState& worker : state.workers) {
    draining += worker.load.draining;
    const auto [model, is_new] = models.try_emplace(worker.identity.model_digest);
    if (is_new) {
      model->second.set_digest(worker.identity.model_digest);
      model->second.set_name(worker.identity.model_name);
      model->second.set_default_width(worker.identity.default_width);
      model->second.set_default_height(worker.identity.default_height);
    }
    model->second.set_workers(model->second.workers() + 1);
  }
  cluster.set_workers_ready(static_cast<int32_t>(state.workers.size()) - draining);
  cluster.set_workers_draining(draining);
  cluster.set_jobs_running(static_cast<int32_t>(state.calls_running));
  cluster.set_durable_jobs_running(state.jobs_running);
  cluster.set_bytes_retained(state.bytes_retained);
  cluster.set_images_queued(state.images_waiting);
  cluster.set_images_leased(state.load.images_leased);
  cluster.set_images_completed(state.images_completed);
  cluster.set_images_failed(state.images_failed);
  cluster.set_images_queued_max(state.images_queued_max);
  if (state.load.images_queued > 0) Set(cluster.mutable_oldest_queued_age(), state.load.oldest_queued_age);
  for (auto& [digest, model] : models) *cluster.add_models() = std::move(model);
  return cluster;
}

v1::Worker WorkerProto(const WorkerState& state) {
  const WorkerIdentity& identity = state.identity;
  v1::Worker worker;
  worker.set_name(absl::StrCat("workers/", identity.name));
  worker.set_state(state.load.draining            ? v1::Worker::STATE_DRAINING
                   : state.load.images_leased > 0 ? v1::Worker::STATE_BUSY
                                                  : v1::Worker::STATE_IDLE);
  worker.set_version(identity.version);
  worker.set_device(identity.device);
  worker.set_device_name(identity.device_name);
  worker.set_precision(identity.precision);
  worker.set_model_name(identity.model_name);
  worker.set_model_digest(identity.model_digest);
  worker.set_batch_images_max(identity.batch_images_max);
  worker.set_size_max(identity.size_max);
  worker.set_has_tiny_vae(identity.has_tiny_vae);
  Set(worker.mutable_connect_time(), state.connect_time);
  worker.set_images_leased(static_cast<int32_t>(state.load.images_leased));
  worker.set_images_completed(state.images_completed);
  worker.set_images_failed(state.images_failed);
  worker.set_images_per_second(state.images_per_second);
  return worker;
}

worker_pb::SessionResponse WelcomeProto(const SessionTerms& terms) {
  worker_pb::SessionResponse response;
  response.mutable_welcome()->set_session(terms.token);
  Set(response.mutable_welcome()->mutable_report_interval(), terms.report_interval);
  Set(response.mutable_welcome()->mutable_session_timeout(), terms.session_timeout);
  return response;
}

worker_pb::SessionResponse BatchProto(const BatchToRender& batch) {
  worker_pb::SessionResponse response;
  worker_pb::Batch& proto = *response.mutable_batch();
  proto.set_lease(static_cast<uint64_t>(batch.lease));
  worker_pb::Shape& shape = *proto.mutable_shape();
  shape.set_width(batch.shape.width);
  shape.set_height(batch.shape.height);
  shape.set_steps(batch.shape.steps);
  shape.set_first_step(batch.shape.first_step);
  shape.set_image_to_image(batch.shape.image_to_image);
  shape.set_vae(batch.shape.tiny_vae ? v1::VAE_TINY : v1::VAE_FULL);
  proto.set_adopted(batch.adopted);
  for (const ImageToRender& to_render : batch.images) {
    worker_pb::BatchImage& image = *proto.add_images();
    image.set_slot(proto.images_size() - 1);
    SetBatchImage(to_render, &image);
  }
  return response;
}

worker_pb::SessionResponse AbandonProto(LeaseId lease, const std::vector<int32_t>& slots) {
  worker_pb::SessionResponse response;
  response.mutable_abandon()->set_lease(static_cast<uint64_t>(lease));
  response.mutable_abandon()->mutable_slots()->Assign(slots.begin(), slots.end());
  return response;
}

}  // namespace turbofleet
