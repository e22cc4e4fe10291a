#include "coordinator/store/codec.h"

#include <limits>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "google/protobuf/duration.pb.h"
#include "turbofleet/internal/store/v1/store.pb.h"

namespace turbofleet {
namespace {

namespace pb = ::turbofleet::internal::store::v1;

// Infinite durations are the largest seconds that there are.
constexpr int64_t kInfiniteSeconds = std::numeric_limits<int64_t>::max();

void EncodeDuration(absl::Duration duration, google::protobuf::Duration* to) {
  if (duration == absl::InfiniteDuration()) {
    to->set_seconds(kInfiniteSeconds);
    return;
  }
  absl::Duration rest;
  to->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

absl::Duration DecodeDuration(const google::protobuf::Duration& from) {
  if (from.seconds() == kInfiniteSeconds) return absl::InfiniteDuration();
  return absl::Seconds(from.seconds()) + absl::Nanoseconds(from.nanos());
}

template <typename Message>
absl::StatusOr<Message> Parse(absl::string_view bytes, const char* what) {
  Message message;
  if (bytes.size() > std::numeric_limits<int>::max() ||
      !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError(absl::StrCat("a ", what, " in the database cannot be read"));
  }
  return message;
}

void EncodePicture(const PackedPicture& picture, pb::Picture* to) {
  to->set_pack(picture.file.pack);
  to->set_offset(picture.file.offset);
  to->set_length(picture.file.length);
  to->set_crc32c(picture.file.crc32c);
  to->set_pixel_sha256(absl::HexStringToBytes(picture.pixel_sha256));
  to->set_worker(picture.worker);
  to->set_attempt(picture.attempt);
  to->set_batch_size(picture.batch_size);
  to->set_prompt_tokens_cut(picture.prompt_tokens_cut);
  EncodeDuration(picture.queue_wait, to->mutable_queue());
  EncodeDuration(picture.stages.text, to->mutable_text());
  EncodeDuration(picture.stages.vae_encode, to->mutable_vae_encode());
  EncodeDuration(picture.stages.unet, to->mutable_unet());
  EncodeDuration(picture.stages.vae_decode, to->mutable_vae_decode());
  EncodeDuration(picture.stages.file_encode, to->mutable_file_encode());
  EncodeDuration(picture.stages.transport, to->mutable_transport());
}

PackedPicture DecodePicture(const pb::Picture& from) {
  PackedPicture picture;
  picture.file = {.pack = from.pack(), .offset = from.offset(), .length = from.length(), .crc32c = from.crc32c()};
  picture.pixel_sha256 = absl::BytesToHexString(from.pixel_sha256());
  picture.worker = from.worker();
  picture.attempt = from.attempt();
  picture.batch_size = from.batch_size();
  picture.prompt_tokens_cut = from.prompt_tokens_cut();
  picture.queue_wait = DecodeDuration(from.queue());
  picture.stages = {.text = DecodeDuration(from.text()),
                    .vae_encode = DecodeDuration(from.vae_encode()),
                    .unet = DecodeDuration(from.unet()),
                    .vae_decode = DecodeDuration(from.vae_decode()),
                    .file_encode = DecodeDuration(from.file_encode()),
                    .transport = DecodeDuration(from.transport())};
  return picture;
}

void EncodeFailure(const FailedResult& failed, pb::Failure* to) {
  to->set_code(static_cast<int>(failed.error.code));
  to->set_reason(failed.error.reason);
  to->set_message(failed.error.message);
  to->set_attempts(failed.attempts);
}

FailedResult DecodeFailure(const pb::Failure& from) {
  return {
      .error = {.code = static_cast<absl::StatusCode>(from.code()), .reason = from.reason(), .message = from.message()},
      .attempts = from.attempts()};
}

}  // namespace

std::string EncodeJobSpec(const JobSpec& spec) {
  pb::JobSpec to;
  to.set_negative_prompt(spec.negative_prompt);
  to.set_guidance_scale(spec.guidance_scale);
  to.set_prompt_count(spec.prompt_count);
  to.set_seeds_per_prompt(spec.seeds_per_prompt);
  to.set_first_seed(spec.first_seed);
  to.mutable_seeds()->Add(spec.seeds.begin(), spec.seeds.end());
  to.set_width(spec.shape.width);
  to.set_height(spec.shape.height);
  to.set_steps(spec.shape.steps);
  to.set_first_step(spec.shape.first_step);
  to.set_tiny_vae(spec.shape.tiny_vae);
  to.set_init_image_sha256(spec.init_image_sha256);
  to.set_strength(spec.strength);
  to.set_format(static_cast<int32_t>(spec.format));
  to.set_quality(spec.quality);
  to.set_embed_metadata(spec.embed_metadata);
  to.set_model_digest(spec.model_digest);
  to.set_model_name(spec.model_name);
  to.set_job_class(static_cast<int32_t>(spec.job_class));
  to.mutable_labels()->insert(spec.labels.begin(), spec.labels.end());
  EncodeDuration(spec.retention, to.mutable_retention());
  return to.SerializeAsString();
}

absl::StatusOr<JobSpec> DecodeJobSpec(absl::string_view bytes) {
  TURBOFLEET_ASSIGN_OR_RETURN(const pb::JobSpec from, Parse<pb::JobSpec>(bytes, "job"));
  if (from.format() < 0 || from.format() > static_cast<int32_t>(FileFormat::kRaw) || from.job_class() < 0 ||
      from.job_class() > static_cast<int32_t>(JobClass::kBulk) || from.seeds_per_prompt() < 1) {
    return absl::DataLossError("a job in the database has values that this release does not know");
  }
  JobSpec spec;
  spec.job_class = static_cast<JobClass>(from.job_class());
  spec.labels.insert(from.labels().begin(), from.labels().end());
  spec.retention = DecodeDuration(from.retention());
  spec.prompt_count = from.prompt_count();
  spec.negative_prompt = from.negative_prompt();
  spec.guidance_scale = from.guidance_scale();
  spec.seeds_per_prompt = from.seeds_per_prompt();
  spec.first_seed = from.first_seed();
  spec.seeds.assign(from.seeds().begin(), from.seeds().end());
  spec.shape = {.width = from.width(),
                .height = from.height(),
                .steps = from.steps(),
                .first_step = from.first_step(),
                .image_to_image = !from.init_image_sha256().empty(),
                .tiny_vae = from.tiny_vae()};
  spec.init_image_sha256 = from.init_image_sha256();
  spec.strength = from.strength();
  spec.format = static_cast<FileFormat>(from.format());
  spec.quality = from.quality();
  spec.embed_metadata = from.embed_metadata();
  spec.model_digest = from.model_digest();
  spec.model_name = from.model_name();
  return spec;
}

std::string EncodePrompts(absl::Span<const std::string> prompts) {
  pb::Prompts to;
  to.mutable_prompts()->Add(prompts.begin(), prompts.end());
  return to.SerializeAsString();
}

absl::StatusOr<std::vector<std::string>> DecodePrompts(absl::string_view bytes) {
  TURBOFLEET_ASSIGN_OR_RETURN(const pb::Prompts from, Parse<pb::Prompts>(bytes, "list of prompts"));
  return std::vector<std::string>(from.prompts().begin(), from.prompts().end());
}

std::string EncodeResults(absl::Span<const ImageResult> results) {
  pb::Results to;
  to.mutable_results()->Reserve(static_cast<int>(results.size()));
  for (const ImageResult& result : results) {
    pb::Result* one = to.add_results();
    one->set_index(result.index);
    if (const auto* picture = std::get_if<PackedPicture>(&result.outcome)) {
      EncodePicture(*picture, one->mutable_picture());
    } else {
      EncodeFailure(std::get<FailedResult>(result.outcome), one->mutable_failure());
    }
  }
  return to.SerializeAsString();
}

absl::StatusOr<std::vector<ImageResult>> DecodeResults(absl::string_view bytes) {
  TURBOFLEET_ASSIGN_OR_RETURN(const pb::Results from, Parse<pb::Results>(bytes, "list of results"));
  std::vector<ImageResult> results;
  results.reserve(static_cast<size_t>(from.results_size()));
  for (const pb::Result& result : from.results()) {
    switch (result.outcome_case()) {
      case pb::Result::kPicture:
        results.push_back({.index = result.index(), .outcome = DecodePicture(result.picture())});
        break;
      case pb::Result::kFailure:
        results.push_back({.index = result.index(), .outcome = DecodeFailure(result.failure())});
        break;
      case pb::Result::OUTCOME_NOT_SET:
        return absl::DataLossError("a result in the database is neither a picture nor a failure");
    }
  }
  return results;
}

}  // namespace turbofleet
