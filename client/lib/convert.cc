#include "client/lib/convert.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "turbofleet/errors.h"

namespace turbofleet::client {
namespace {

v1::ImageFormat FormatToProto(FileFormat format) {
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

absl::StatusOr<FileFormat> FormatFromProto(v1::ImageFormat format) {
  switch (format) {
    case v1::IMAGE_FORMAT_PNG:
      return FileFormat::kPng;
    case v1::IMAGE_FORMAT_JPEG:
      return FileFormat::kJpeg;
    case v1::IMAGE_FORMAT_WEBP:
      return FileFormat::kWebp;
    case v1::IMAGE_FORMAT_RAW:
      return FileFormat::kRaw;
    default:
      return MakeError(absl::StatusCode::kInternal, kReasonProtocolViolation,
                       absl::StrCat("the coordinator sent an image in the unknown file format ", format));
  }
}

v1::Priority PriorityToProto(Priority priority) {
  switch (priority) {
    case Priority::kInteractive:
      return v1::PRIORITY_INTERACTIVE;
    case Priority::kNormal:
      return v1::PRIORITY_NORMAL;
    case Priority::kBulk:
      return v1::PRIORITY_BULK;
  }
  return v1::PRIORITY_UNSPECIFIED;
}

std::string StateName(v1::Worker::State state) {
  switch (state) {
    case v1::Worker::STATE_IDLE:
      return "idle";
    case v1::Worker::STATE_BUSY:
      return "busy";
    case v1::Worker::STATE_DRAINING:
      return "draining";
    default:
      return "unknown";
  }
}

}  // namespace

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

v1::GenerateImagesRequest ToProto(const GenerateRequest& request) {
  v1::GenerateImagesRequest proto = WithoutPromptsToProto(request);
  for (const std::string& prompt : request.prompts) proto.add_prompts(prompt);
  return proto;
}

v1::GenerateImagesRequest WithoutPromptsToProto(const GenerateRequest& request) {
  v1::GenerateImagesRequest proto;
  proto.set_negative_prompt(request.negative_prompt);
  if (request.seed.has_value()) proto.set_seed(*request.seed);
  if (request.count.has_value()) proto.set_count(*request.count);
  for (const uint64_t seed : request.seeds) proto.add_seeds(seed);
  if (request.width.has_value()) proto.set_width(*request.width);
  if (request.height.has_value()) proto.set_height(*request.height);
  if (request.steps.has_value()) proto.set_steps(*request.steps);
  if (request.guidance_scale.has_value()) proto.set_guidance_scale(*request.guidance_scale);
  proto.set_init_image(request.init_image);
  if (request.strength.has_value()) proto.set_strength(*request.strength);
  if (request.format.has_value()) proto.set_format(FormatToProto(*request.format));
  if (request.quality.has_value()) proto.set_quality(*request.quality);
  if (request.embed_metadata.has_value()) proto.set_embed_metadata(*request.embed_metadata);
  if (request.vae.has_value()) proto.set_vae(*request.vae == Vae::kTiny ? v1::VAE_TINY : v1::VAE_FULL);
  proto.set_model(request.model);
  if (request.priority.has_value()) proto.set_priority(PriorityToProto(*request.priority));
  return proto;
}

Accepted FromProto(const v1::Accepted& accepted) {
  return {.job = accepted.job(),
          .image_count = accepted.image_count(),
          .width = accepted.width(),
          .height = accepted.height(),
          .steps = accepted.steps(),
          .seeds = {accepted.seeds().begin(), accepted.seeds().end()},
          .strength = accepted.strength(),
          .model_digest = accepted.model_digest(),
          .model_name = accepted.model_name()};
}

ImageFailure FromProto(const v1::ImageFailure& failure) {
  const auto code = static_cast<absl::StatusCode>(failure.code());
  return {.index = failure.index(),
          .prompt_index = failure.prompt_index(),
          .seed = failure.seed(),
          // A failure is an error even if a broken server says "OK".
          .status = MakeError(code == absl::StatusCode::kOk ? absl::StatusCode::kUnknown : code, failure.reason(),
                              failure.message()),
          .attempts = failure.attempts()};
}

absl::StatusOr<Image> TakeFromProto(v1::Image* image) {
  absl::StatusOr<FileFormat> format = FormatFromProto(image->format());
  if (!format.ok()) return format.status();
  Image result;
  result.index = image->index();
  result.prompt_index = image->prompt_index();
  result.seed = image->seed();
  result.width = image->width();
  result.height = image->height();
  result.format = *format;
  result.content = std::move(*image->mutable_content());
  result.pixel_sha256 = image->pixel_sha256();
  result.model_digest = image->model_digest();
  result.worker = image->worker();
  result.attempt = image->attempt();
  result.batch_size = image->batch_size();
  result.prompt_tokens_cut = image->prompt_tokens_cut();
  const v1::ImageTimes& times = image->times();
  result.times = {.queue = FromProto(times.queue()),
                  .text = FromProto(times.text()),
                  .vae_encode = FromProto(times.vae_encode()),
                  .unet = FromProto(times.unet()),
                  .vae_decode = FromProto(times.vae_decode()),
                  .file_encode = FromProto(times.file_encode()),
                  .transport = FromProto(times.transport())};
  return result;
}

ClusterState FromProto(const v1::Cluster& cluster) {
  ClusterState state;
  state.version = cluster.version();
  state.start_time = FromProto(cluster.start_time());
  state.draining = cluster.draining();
  state.workers_ready = cluster.workers_ready();
  state.workers_draining = cluster.workers_draining();
  state.jobs_running = cluster.jobs_running();
  state.images_queued = cluster.images_queued();
  state.images_leased = cluster.images_leased();
  state.images_completed = cluster.images_completed();
  state.images_failed = cluster.images_failed();
  state.images_queued_max = cluster.images_queued_max();
  if (cluster.has_oldest_queued_age()) state.oldest_queued_age = FromProto(cluster.oldest_queued_age());
  for (const v1::Model& model : cluster.models()) {
    state.models.push_back({.digest = model.digest(),
                            .name = model.name(),
                            .default_width = model.default_width(),
                            .default_height = model.default_height(),
                            .workers = model.workers()});
  }
  return state;
}

WorkerState FromProto(const v1::Worker& worker) {
  return {.name = worker.name(),
          .state = StateName(worker.state()),
          .version = worker.version(),
          .device = worker.device(),
          .device_name = worker.device_name(),
          .precision = worker.precision(),
          .model_name = worker.model_name(),
          .model_digest = worker.model_digest(),
          .batch_images_max = worker.batch_images_max(),
          .size_max = worker.size_max(),
          .has_tiny_vae = worker.has_tiny_vae(),
          .connect_time = FromProto(worker.connect_time()),
          .images_leased = worker.images_leased(),
          .images_completed = worker.images_completed(),
          .images_failed = worker.images_failed(),
          .images_per_second = worker.images_per_second()};
}

}  // namespace turbofleet::client
