#include "coordinator/service/validate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/errors.h"
#include "common/status.h"
#include "common/text.h"

namespace turbofleet {

absl::Status CheckText(const std::string& field, const std::string& text) {
  if (text.size() > kPromptBytesMax) {
    return InvalidField(field, absl::StrCat("has ", text.size(), " bytes; at most ", kPromptBytesMax, " are allowed"));
  }
  if (!IsValidUtf8(text)) return InvalidField(field, "is not valid UTF-8");
  return absl::OkStatus();
}

absl::Status CheckUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::UnknownFieldSet& unknown = message.GetReflection()->GetUnknownFields(message);
  if (unknown.empty()) return absl::OkStatus();
  return InvalidField("request", absl::StrCat("has a field with the number ", unknown.field(0).number(),
                                              ", which this coordinator does not know"));
}

namespace {

namespace worker_pb = internal::worker::v1;

constexpr uint64_t kSeedMax = std::numeric_limits<uint32_t>::max();
constexpr int kSideMin = 64;
constexpr int kSideMax = 1'024;
constexpr int kStepsMax = 4;
constexpr double kGuidanceMax = 20.0;

// ---- Requests of clients

absl::Status CheckRange(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("is ", value, "; must be ", min, " to ", max));
}

absl::Status CheckSide(const char* field, int value) {
  TURBOFLEET_RETURN_IF_ERROR(CheckRange(field, value, kSideMin, kSideMax));
  if (value % 8 != 0) return InvalidField(field, absl::StrCat("is ", value, "; must be a multiple of 8"));
  return absl::OkStatus();
}

absl::Status ParsePrompts(const v1::GenerateImagesRequest& request, JobRequest* job) {
  if (request.prompts_size() > kPromptsMax) {
    return InvalidField("prompts",
                        absl::StrCat("has ", request.prompts_size(), "; at most ", kPromptsMax, " are allowed"));
  }
  for (int i = 0; i < request.prompts_size(); ++i) {
    TURBOFLEET_RETURN_IF_ERROR(CheckText(absl::StrCat("prompts[", i, "]"), request.prompts(i)));
  }
  job->prompts.assign(request.prompts().begin(), request.prompts().end());
  return absl::OkStatus();
}

absl::Status ParseGuidance(const v1::GenerateImagesRequest& request, JobRequest* job) {
  // Written so that NaN is refused too.
  if (!(request.guidance_scale() >= 0.0 && request.guidance_scale() <= kGuidanceMax)) {
    return InvalidField("guidance_scale", absl::StrCat("is ", request.guidance_scale(), "; must be 0 to 20"));
  }
  TURBOFLEET_RETURN_IF_ERROR(CheckText("negative_prompt", request.negative_prompt()));
  if (!request.negative_prompt().empty() && request.guidance_scale() <= 1.0) {
    return InvalidField("negative_prompt", "has no effect unless guidance_scale is above 1");
  }
  job->guidance_scale = request.guidance_scale();
  job->negative_prompt = request.negative_prompt();
  return absl::OkStatus();
}

absl::Status ParseSeeds(const v1::GenerateImagesRequest& request, JobRequest* job) {
  if (!request.seeds().empty()) {
    if (request.has_seed()) return InvalidField("seed", "cannot be set together with seeds");
    if (request.has_count()) return InvalidField("count", "cannot be set together with seeds");
    for (int i = 0; i < request.seeds_size(); ++i) {
      if (request.seeds(i) <= kSeedMax) continue;
      return InvalidField(absl::StrCat("seeds[", i, "]"),
                          absl::StrCat("is ", request.seeds(i), "; must be 0 to ", kSeedMax));
    }
    job->seeds.assign(request.seeds().begin(), request.seeds().end());
    job->seeds_per_prompt = request.seeds_size();
    return absl::OkStatus();
  }
  const int32_t count = request.has_count() ? request.count() : 1;
  if (count < 1) return InvalidField("count", absl::StrCat("is ", count, "; must be 1 or more"));
  job->seeds_per_prompt = count;
  if (!request.has_seed()) return absl::OkStatus();
  if (request.seed() > kSeedMax || request.seed() + static_cast<uint64_t>(count) - 1 > kSeedMax) {
    return InvalidField("seed",
                        absl::StrCat("is ", request.seed(), "; it and seed + count - 1 must be 0 to ", kSeedMax));
  }
  job->first_seed = static_cast<uint32_t>(request.seed());
  return absl::OkStatus();
}

bool IsImageFile(std::string_view content) {
  using namespace std::string_view_literals;
  return content.starts_with("\x89PNG\r\n\x1a\n"sv) || content.starts_with("\xff\xd8\xff"sv) ||
         (content.starts_with("RIFF"sv) && content.size() >= 12 && content.substr(8, 4) == "WEBP"sv);
}

absl::Status ParseSampling(const v1::GenerateImagesRequest& request, JobRequest* job) {
  const bool image_to_image = !request.init_image().empty();
  job->steps = request.has_steps() ? request.steps() : (image_to_image ? 2 : 1);
  TURBOFLEET_RETURN_IF_ERROR(CheckRange("steps", job->steps, 1, kStepsMax));
  if (!image_to_image) {
    if (request.has_strength()) return InvalidField("strength", "has no effect without init_image");
    return absl::OkStatus();
  }
  if (request.init_image().size() > kInitImageBytesMax) {
    return InvalidField("init_image", absl::StrCat("has ", request.init_image().size(), " bytes; at most ",
                                                   kInitImageBytesMax, " are allowed"));
  }
  if (!IsImageFile(request.init_image())) return InvalidField("init_image", "is neither PNG nor JPEG nor WebP");
  job->init_image = request.init_image();
  job->strength = request.has_strength() ? request.strength() : 0.5;
  if (!(job->strength > 0.0 && job->strength <= 1.0)) {
    return InvalidField("strength", absl::StrCat("is ", job->strength, "; must be above 0 and at most 1"));
  }
  const int steps_run = static_cast<int>(job->steps * job->strength);
  if (steps_run < 1) {
    return InvalidField("strength", absl::StrCat("is ", job->strength, " and steps is ", job->steps,
                                                 "; int(steps * strength) must be 1 or more"));
  }
  job->first_step = job->steps - steps_run;
  return absl::OkStatus();
}

absl::Status ParseFile(const v1::GenerateImagesRequest& request, JobRequest* job) {
  switch (request.format()) {
    case v1::IMAGE_FORMAT_UNSPECIFIED:
    case v1::IMAGE_FORMAT_PNG:
      job->format = FileFormat::kPng;
      break;
    case v1::IMAGE_FORMAT_JPEG:
      job->format = FileFormat::kJpeg;
      break;
    case v1::IMAGE_FORMAT_WEBP:
      job->format = FileFormat::kWebp;
      break;
    case v1::IMAGE_FORMAT_RAW:
      job->format = FileFormat::kRaw;
      break;
    default:
      return InvalidField("format", absl::StrCat("is ", static_cast<int>(request.format()), ", which is not known"));
  }
  if (request.has_quality()) {
    if (job->format != FileFormat::kJpeg && job->format != FileFormat::kWebp) {
      return InvalidField("quality", "has no effect unless format is JPEG or WebP");
    }
    TURBOFLEET_RETURN_IF_ERROR(CheckRange("quality", request.quality(), 1, 100));
    job->quality = request.quality();
  }
  const bool raw = job->format == FileFormat::kRaw;
  if (raw && request.has_embed_metadata() && request.embed_metadata()) {
    return InvalidField("embed_metadata", "raw pixels have no room for it");
  }
  job->embed_metadata = !raw && (!request.has_embed_metadata() || request.embed_metadata());
  return absl::OkStatus();
}

absl::Status ParseTarget(const v1::GenerateImagesRequest& request, JobRequest* job) {
  if (request.has_width()) {
    TURBOFLEET_RETURN_IF_ERROR(CheckSide("width", request.width()));
    job->width = request.width();
  }
  if (request.has_height()) {
    TURBOFLEET_RETURN_IF_ERROR(CheckSide("height", request.height()));
    job->height = request.height();
  }
  if (request.vae() != v1::VAE_UNSPECIFIED && request.vae() != v1::VAE_FULL && request.vae() != v1::VAE_TINY) {
    return InvalidField("vae", absl::StrCat("is ", static_cast<int>(request.vae()), ", which is not known"));
  }
  job->tiny_vae = request.vae() == v1::VAE_TINY;
  switch (request.priority()) {
    case v1::PRIORITY_UNSPECIFIED:
      break;
    case v1::PRIORITY_INTERACTIVE:
      job->job_class = JobClass::kInteractive;
      break;
    case v1::PRIORITY_NORMAL:
      job->job_class = JobClass::kNormal;
      break;
    case v1::PRIORITY_BULK:
      job->job_class = JobClass::kBulk;
      break;
    default:
      return InvalidField("priority",
                          absl::StrCat("is ", static_cast<int>(request.priority()), ", which is not known"));
  }
  if (request.model().size() > kNameBytesMax) {
    return InvalidField(
        "model", absl::StrCat("has ", request.model().size(), " bytes; at most ", kNameBytesMax, " are allowed"));
  }
  job->model = request.model();
  return absl::OkStatus();
}

absl::StatusOr<JobRequest> ParseImages(const v1::GenerateImagesRequest& request, JobClass default_class) {
  JobRequest job;
  job.job_class = default_class;
  TURBOFLEET_RETURN_IF_ERROR(CheckUnknownFields(request));
  TURBOFLEET_RETURN_IF_ERROR(ParsePrompts(request, &job));
  TURBOFLEET_RETURN_IF_ERROR(ParseGuidance(request, &job));
  TURBOFLEET_RETURN_IF_ERROR(ParseSeeds(request, &job));
  TURBOFLEET_RETURN_IF_ERROR(ParseSampling(request, &job));
  TURBOFLEET_RETURN_IF_ERROR(ParseFile(request, &job));
  TURBOFLEET_RETURN_IF_ERROR(ParseTarget(request, &job));
  return job;
}

// ---- Messages of workers

absl::Status Malformed(const std::string& field, const std::string& description) {
  return MakeError(absl::StatusCode::kInvalidArgument, "MALFORMED_MESSAGE", absl::StrCat(field, ": ", description));
}

bool IsHex(std::string_view text, size_t length) {
  return text.size() == length &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsWorkerName(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           std::string_view("._:/-").find(c) != std::string_view::npos;
  });
}

// A time that a worker measured. What makes no sense counts as none: it is not worth a picture.
absl::Duration DurationOf(const google::protobuf::Duration& duration) {
  constexpr absl::Duration kMax = absl::Hours(24);
  return std::clamp(absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos()), absl::ZeroDuration(),
                    kMax);
}

RenderError ErrorOf(const worker_pb::DeliveredFailure& failure) {
  const std::string& reason = failure.reason();
  const bool good_reason =
      !reason.empty() && reason.size() <= 63 && std::all_of(reason.begin(), reason.end(), [](char c) {
        return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
      });
  return {.code = static_cast<absl::StatusCode>(failure.code()),
          .reason = good_reason ? reason : "RENDER_FAILED",
          .message = TruncateUtf8(failure.message(), 1'000)};
}

}  // namespace

absl::StatusOr<JobRequest> ParseGenerateImagesRequest(const v1::GenerateImagesRequest& request) {
  if (request.prompts().empty()) return InvalidField("prompts", "is empty; give 1 or more");
  return ParseImages(request, JobClass::kInteractive);
}

absl::StatusOr<JobRequest> ParseJobImages(const v1::GenerateImagesRequest& request) {
  return ParseImages(request, JobClass::kNormal);
}

absl::StatusOr<int32_t> ParsePageSize(int32_t page_size) {
  if (page_size < 0) return InvalidField("page_size", absl::StrCat("is ", page_size, "; must not be negative"));
  return page_size == 0 ? 100 : std::min(page_size, 1'000);
}

absl::StatusOr<WorkerIdentity> ParseHello(const worker_pb::Hello& hello) {
  if (!IsWorkerName(hello.worker())) {
    return Malformed("hello.worker", "must be 1 to 128 characters of [A-Za-z0-9._:/-]");
  }
  const std::pair<const char*, const std::string*> names[] = {{"hello.version", &hello.version()},
                                                              {"hello.model_name", &hello.model_name()},
                                                              {"hello.device", &hello.device()},
                                                              {"hello.device_name", &hello.device_name()},
                                                              {"hello.precision", &hello.precision()}};
  for (const auto& [field, name] : names) {
    if (name->empty() || name->size() > kNameBytesMax) return Malformed(field, "must have 1 to 128 bytes");
  }
  const std::string_view digest = hello.model_digest();
  if (!digest.starts_with("sha256:") || !IsHex(digest.substr(7), 64)) {
    return Malformed("hello.model_digest", "must be \"sha256:\" and 64 hex digits");
  }
  if (hello.size_max() < kSideMin) return Malformed("hello.size_max", "must be 64 or more");
  for (const auto& [field, side] : {std::pair{"hello.default_width", hello.default_width()},
                                    std::pair{"hello.default_height", hello.default_height()}}) {
    if (side < kSideMin || side > kSideMax || side > hello.size_max() || side % 8 != 0) {
      return Malformed(field, "must be a multiple of 8 from 64 to 1024, and at most size_max");
    }
  }
  if (hello.batch_images_max() < 1 || hello.batch_images_max() > kBatchImagesMax) {
    return Malformed("hello.batch_images_max", "must be 1 to 1024");
  }
  if (!IsHex(hello.incarnation(), 32)) return Malformed("hello.incarnation", "must be 32 hex digits");
  return WorkerIdentity{.name = hello.worker(),
                        .version = hello.version(),
                        .model_name = hello.model_name(),
                        .model_digest = hello.model_digest(),
                        .device = hello.device(),
                        .device_name = hello.device_name(),
                        .precision = hello.precision(),
                        .default_width = hello.default_width(),
                        .default_height = hello.default_height(),
                        .size_max = hello.size_max(),
                        .batch_images_max = hello.batch_images_max(),
                        .has_tiny_vae = hello.has_tiny_vae()};
}

absl::StatusOr<std::vector<HeldImage>> ParseHeld(const worker_pb::Hello& hello) {
  if (hello.held_size() > kHeldImagesMax) {
    return Malformed("hello.held", absl::StrCat("has more than ", kHeldImagesMax));
  }
  std::vector<HeldImage> held;
  std::set<std::pair<std::string, int32_t>> seen;
  for (const worker_pb::HeldImage& image : hello.held()) {
    if (image.job().size() > kNameBytesMax || image.index() < 0 || !seen.emplace(image.job(), image.index()).second) {
      return Malformed("hello.held", "has an image that is none, or is there twice");
    }
    held.push_back({.job = image.job(), .index = image.index()});
  }
  return held;
}

absl::StatusOr<WorkerReport> ParseReport(const worker_pb::Report& report) {
  if (report.leases_size() > kReportLeasesMax) return Malformed("report.leases", "has more than 1024");
  WorkerReport parsed = {.batches_taken_max = report.batches_taken_max(),
                         .leases = {},
                         .last_lease_received = LeaseId{report.last_lease_received()},
                         .draining = report.draining(),
                         .progress = report.progress()};
  for (const uint64_t lease : report.leases()) parsed.leases.push_back(LeaseId{lease});
  return parsed;
}

absl::StatusOr<RenderOutcome> ParseOutcome(worker_pb::DeliverImagesRequest* request) {
  if (request->has_failure()) {
    const int code = request->failure().code();
    if (code < 1 || code > 16) return Malformed("failure.code", absl::StrCat("is ", code, "; must be 1 to 16"));
    return RenderOutcome(ErrorOf(request->failure()));
  }
  if (!request->has_image()) return Malformed("outcome", "is not set");
  worker_pb::DeliveredImage& image = *request->mutable_image();
  if (image.content().empty()) return Malformed("image.content", "is empty");
  if (!IsHex(image.pixel_sha256(), 64)) return Malformed("image.pixel_sha256", "must be 64 hex digits");
  if (image.batch_size() < 1 || image.batch_size() > kBatchImagesMax) {
    return Malformed("image.batch_size", "must be 1 to 1024");
  }
  if (image.prompt_tokens_cut() < 0) return Malformed("image.prompt_tokens_cut", "is negative");
  if (image.content().size() > kImageBytesMax) {
    return RenderOutcome(
        RenderError{.code = absl::StatusCode::kInvalidArgument,
                    .reason = "IMAGE_TOO_LARGE",
                    .message = absl::StrCat("the file has ", image.content().size(), " bytes, at most ", kImageBytesMax,
                                            " are sent; choose another format, quality or size")});
  }
  return RenderOutcome(Picture{.content = std::move(*image.mutable_content()),
                               .pixel_sha256 = std::move(*image.mutable_pixel_sha256()),
                               .batch_size = image.batch_size(),
                               .prompt_tokens_cut = image.prompt_tokens_cut(),
                               .stages = {.text = DurationOf(image.text()),
                                          .vae_encode = DurationOf(image.vae_encode()),
                                          .unet = DurationOf(image.unet()),
                                          .vae_decode = DurationOf(image.vae_decode()),
                                          .file_encode = DurationOf(image.file_encode()),
                                          .transport = DurationOf(image.wait())}});
}

}  // namespace turbofleet
