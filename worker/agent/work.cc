#include "worker/agent/work.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

namespace wire = internal::worker::v1;

absl::Status Invalid(const std::string& field, const std::string& description) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", description));
}

absl::Status CheckSide(const std::string& field, int side, const EngineInfo& engine) {
  if (side < kSideMin || side > engine.size_max || side % 8 != 0) {
    return Invalid(field, absl::StrCat(side, " is not a multiple of 8 from ", kSideMin, " to ", engine.size_max));
  }
  return absl::OkStatus();
}

absl::StatusOr<RenderShape> ReadShape(const wire::Shape& shape, const EngineInfo& engine) {
  TURBOFLEET_RETURN_IF_ERROR(CheckSide("shape.width", shape.width(), engine));
  TURBOFLEET_RETURN_IF_ERROR(CheckSide("shape.height", shape.height(), engine));
  if (shape.steps() < 1 || shape.steps() > kStepsMax) {
    return Invalid("shape.steps", absl::StrCat(shape.steps(), " is not 1 to ", kStepsMax));
  }
  const int first_step_max = shape.image_to_image() ? shape.steps() - 1 : 0;
  if (shape.first_step() < 0 || shape.first_step() > first_step_max) {
    return Invalid("shape.first_step", absl::StrCat(shape.first_step(), " is not 0 to ", first_step_max));
  }
  if (shape.vae() != v1::VAE_FULL && shape.vae() != v1::VAE_TINY) {
    return Invalid("shape.vae", absl::StrCat(static_cast<int>(shape.vae()), " is not a VAE"));
  }
  if (shape.vae() == v1::VAE_TINY && !engine.has_tiny_vae) {
    return Invalid("shape.vae", "this worker has no tiny VAE");
  }
  return RenderShape{.width = shape.width(),
                     .height = shape.height(),
                     .steps = shape.steps(),
                     .first_step = shape.first_step(),
                     .image_to_image = shape.image_to_image(),
                     .vae = shape.vae() == v1::VAE_TINY ? VaeKind::kTiny : VaeKind::kFull};
}

bool IsSha256(const std::string& text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

absl::StatusOr<ImageFormat> ReadFormat(const std::string& field, v1::ImageFormat format) {
  switch (format) {
    case v1::IMAGE_FORMAT_PNG:
      return ImageFormat::kPng;
    case v1::IMAGE_FORMAT_JPEG:
      return ImageFormat::kJpeg;
    case v1::IMAGE_FORMAT_WEBP:
      return ImageFormat::kWebp;
    case v1::IMAGE_FORMAT_RAW:
      return ImageFormat::kRaw;
    default:
      return Invalid(field, absl::StrCat(static_cast<int>(format), " is not a format"));
  }
}

absl::Status CheckText(const std::string& field, const wire::BatchImage& image) {
  if (image.prompt().size() > kPromptBytesMax || image.negative_prompt().size() > kPromptBytesMax) {
    return Invalid(absl::StrCat(field, ".prompt"), absl::StrCat("longer than ", kPromptBytesMax, " bytes"));
  }
  if (!std::isfinite(image.guidance_scale()) || image.guidance_scale() < 0 || image.guidance_scale() > kGuidanceMax) {
    return Invalid(absl::StrCat(field, ".guidance_scale"), absl::StrCat("not from 0 to ", kGuidanceMax));
  }
  if (!image.negative_prompt().empty() && image.guidance_scale() <= 1) {
    return Invalid(absl::StrCat(field, ".negative_prompt"), "has no effect without guidance");
  }
  if (image.seed() > std::numeric_limits<uint32_t>::max()) {
    return Invalid(absl::StrCat(field, ".seed"), absl::StrCat(image.seed(), " is above 4294967295"));
  }
  return absl::OkStatus();
}

absl::Status CheckStart(const std::string& field, const wire::BatchImage& image, bool image_to_image) {
  if (!image_to_image) {
    if (!image.init_image_sha256().empty()) {
      return Invalid(absl::StrCat(field, ".init_image_sha256"), "set for text-to-image");
    }
    return absl::OkStatus();
  }
  if (!IsSha256(image.init_image_sha256())) {
    return Invalid(absl::StrCat(field, ".init_image_sha256"), "not 64 lower-case hex digits");
  }
  if (!(image.strength() > 0 && image.strength() <= 1)) {
    return Invalid(absl::StrCat(field, ".strength"), "not above 0 to 1");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WorkImage>> ReadImage(const std::string& field, const wire::BatchImage& image,
                                                     const RenderShape& shape) {
  if (image.slot() < 0 || image.slot() > kSlotMax) {
    return Invalid(absl::StrCat(field, ".slot"), absl::StrCat(image.slot(), " is not 0 to ", kSlotMax));
  }
  TURBOFLEET_RETURN_IF_ERROR(CheckText(field, image));
  TURBOFLEET_RETURN_IF_ERROR(CheckStart(field, image, shape.image_to_image));
  auto read = std::make_unique<WorkImage>();
  TURBOFLEET_ASSIGN_OR_RETURN(read->format, ReadFormat(absl::StrCat(field, ".format"), image.format()));
  const bool lossy = read->format == ImageFormat::kJpeg || read->format == ImageFormat::kWebp;
  if (lossy && (image.quality() < 1 || image.quality() > 100)) {
    return Invalid(absl::StrCat(field, ".quality"), absl::StrCat(image.quality(), " is not 1 to 100"));
  }
  read->slot = image.slot();
  read->request.prompt = image.prompt();
  read->request.negative_prompt = image.negative_prompt();
  read->request.guidance_scale = image.guidance_scale();
  read->request.seed = static_cast<uint32_t>(image.seed());
  read->init_image_sha256 = image.init_image_sha256();
  read->strength = shape.image_to_image ? image.strength() : 0.0;
  read->quality = lossy ? image.quality() : 0;
  read->embed_metadata = image.embed_metadata() && read->format != ImageFormat::kRaw;
  if (image.index() < 0) return Invalid(absl::StrCat(field, ".index"), "negative");
  read->job = image.job();
  read->index = image.index();
  return read;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Work>> ReadBatch(const wire::Batch& batch, const EngineInfo& engine) {
  const int images_max = batch.adopted() ? kSlotMax + 1 : engine.batch_images_max;
  if (batch.images_size() < 1 || batch.images_size() > images_max) {
    return Invalid("images", absl::StrCat(batch.images_size(), " are not 1 to ", images_max));
  }
  auto work = std::make_shared<Work>();
  work->lease = batch.lease();
  work->adopted = batch.adopted();
  TURBOFLEET_ASSIGN_OR_RETURN(work->shape, ReadShape(batch.shape(), engine));
  std::set<int> slots;
  for (int i = 0; i < batch.images_size(); ++i) {
    const std::string field = absl::StrCat("images[", i, "]");
    TURBOFLEET_ASSIGN_OR_RETURN(std::unique_ptr<WorkImage> image, ReadImage(field, batch.images(i), work->shape));
    if (!slots.insert(image->slot).second) {
      return Invalid(absl::StrCat(field, ".slot"), absl::StrCat(image->slot, " is there twice"));
    }
    work->images.push_back(std::move(image));
  }
  return work;
}

}  // namespace turbofleet
