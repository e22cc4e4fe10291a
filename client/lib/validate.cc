#include "client/lib/validate.h"

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/status.h"
#include "common/text.h"
#include "google/rpc/error_details.pb.h"
#include "turbofleet/errors.h"

namespace turbofleet::client {
namespace {

constexpr size_t kPromptBytesMax = 4096;
constexpr uint64_t kSeedMax = 4'294'967'295;
constexpr int32_t kSideMin = 64;
constexpr int32_t kSideMax = 1024;
constexpr int32_t kSideStep = 8;
constexpr int32_t kStepsMax = 4;
constexpr double kGuidanceMax = 20;
constexpr size_t kInitImageBytesMax = 8 << 20;

absl::Status ValidateText(const std::string& field, const std::string& text) {
  if (text.size() > kPromptBytesMax) {
    return InvalidField(field, absl::StrCat("has ", text.size(), " bytes, but may have ", kPromptBytesMax));
  }
  if (!IsValidUtf8(text)) return InvalidField(field, "is not UTF-8");
  return absl::OkStatus();
}

absl::Status ValidatePrompts(const GenerateRequest& request, size_t prompts_max) {
  if (request.prompts.empty()) return InvalidField("prompts", "needs at least one prompt");
  if (request.prompts.size() > prompts_max) {
    return InvalidField("prompts",
                        absl::StrCat("has ", request.prompts.size(), " prompts, but may have ", prompts_max));
  }
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    TURBOFLEET_RETURN_IF_ERROR(ValidateText(absl::StrCat("prompts[", i, "]"), request.prompts[i]));
  }
  TURBOFLEET_RETURN_IF_ERROR(ValidateText("negative_prompt", request.negative_prompt));
  if (!request.negative_prompt.empty() && request.guidance_scale.value_or(0) <= 1) {
    return InvalidField("negative_prompt", "has no effect unless guidance_scale is above 1");
  }
  return absl::OkStatus();
}

absl::Status ValidateSeeds(const GenerateRequest& request, int64_t images_max) {
  const auto check = [](const std::string& field, uint64_t seed) {
    if (seed <= kSeedMax) return absl::OkStatus();
    return InvalidField(field, absl::StrCat("must be 0 to ", kSeedMax, ", not ", seed));
  };
  for (size_t i = 0; i < request.seeds.size(); ++i) {
    TURBOFLEET_RETURN_IF_ERROR(check(absl::StrCat("seeds[", i, "]"), request.seeds[i]));
  }
  if (!request.seeds.empty() && (request.seed.has_value() || request.count.has_value())) {
    return InvalidField(request.seed.has_value() ? "seed" : "count", "cannot be set together with seeds");
  }
  TURBOFLEET_RETURN_IF_ERROR(check("seed", request.seed.value_or(0)));
  const int32_t count = request.count.value_or(1);
  if (count < 1) return InvalidField("count", absl::StrCat("must be 1 or more, not ", count));
  const uint64_t last = request.seed.value_or(0) + static_cast<uint64_t>(count) - 1;
  if (last > kSeedMax) {
    return InvalidField("seed", absl::StrCat("the last one, seed + count - 1 = ", last, ", would be above ", kSeedMax));
  }
  const int64_t per_prompt = request.seeds.empty() ? count : static_cast<int64_t>(request.seeds.size());
  if (per_prompt * static_cast<int64_t>(request.prompts.size()) > images_max) {
    return InvalidField("count", absl::StrCat("asks for more than ", images_max, " images"));
  }
  return absl::OkStatus();
}

absl::Status ValidateSide(const std::string& field, std::optional<int32_t> side) {
  if (!side.has_value()) return absl::OkStatus();
  if (*side >= kSideMin && *side <= kSideMax && *side % kSideStep == 0) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("must be a multiple of ", kSideStep, " from ", kSideMin, " to ", kSideMax,
                                          " pixels, not ", *side));
}

bool IsKnownImageFile(std::string_view bytes) {
  return bytes.substr(0, 8) == "\x89PNG\r\n\x1a\n" || bytes.substr(0, 3) == "\xff\xd8\xff" ||
         (bytes.substr(0, 4) == "RIFF" && bytes.size() >= 12 && bytes.substr(8, 4) == "WEBP");
}

absl::Status ValidateInitImage(const GenerateRequest& request) {
  if (request.init_image.empty()) {
    if (!request.strength.has_value()) return absl::OkStatus();
    return InvalidField("strength", "has no effect without init_image");
  }
  if (request.init_image.size() > kInitImageBytesMax) {
    return InvalidField("init_image",
                        absl::StrCat("has ", request.init_image.size(), " bytes, but may have ", kInitImageBytesMax));
  }
  if (!IsKnownImageFile(request.init_image)) return InvalidField("init_image", "is no PNG, JPEG or WebP file");
  const double strength = request.strength.value_or(0.5);
  if (!(strength > 0 && strength <= 1)) {
    return InvalidField("strength", absl::StrCat("must be above 0 and at most 1, not ", strength));
  }
  const int32_t steps = request.steps.value_or(2);
  if (static_cast<int>(steps * strength) < 1) {
    return InvalidField("strength", absl::StrCat(steps, " steps with strength ", strength,
                                                 " run no step at all; steps * strength must be 1 or more"));
  }
  return absl::OkStatus();
}

absl::Status ValidateOutput(const GenerateRequest& request) {
  const FileFormat format = request.format.value_or(FileFormat::kPng);
  if (request.quality.has_value()) {
    if (format != FileFormat::kJpeg && format != FileFormat::kWebp) {
      return InvalidField("quality", "has an effect only with the formats jpeg and webp");
    }
    if (*request.quality < 1 || *request.quality > 100) {
      return InvalidField("quality", absl::StrCat("must be 1 to 100, not ", *request.quality));
    }
  }
  if (format == FileFormat::kRaw && request.embed_metadata.value_or(false)) {
    return InvalidField("embed_metadata", "raw pixels have no room for metadata");
  }
  if (!IsValidUtf8(request.model)) return InvalidField("model", "is not UTF-8");
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const GenerateRequest& request) {
  return ValidateImages(request, {.prompts_max = 1000, .images_max = 2'147'483'647});
}

absl::Status ValidateImages(const GenerateRequest& request, const ImagesLimits& limits) {
  TURBOFLEET_RETURN_IF_ERROR(ValidatePrompts(request, limits.prompts_max));
  TURBOFLEET_RETURN_IF_ERROR(ValidateSeeds(request, limits.images_max));
  TURBOFLEET_RETURN_IF_ERROR(ValidateSide("width", request.width));
  TURBOFLEET_RETURN_IF_ERROR(ValidateSide("height", request.height));
  if (const int32_t steps = request.steps.value_or(1); steps < 1 || steps > kStepsMax) {
    return InvalidField("steps", absl::StrCat("must be 1 to ", kStepsMax, ", not ", steps));
  }
  if (const double guidance = request.guidance_scale.value_or(0); !(guidance >= 0 && guidance <= kGuidanceMax)) {
    return InvalidField("guidance_scale", absl::StrCat("must be 0 to ", kGuidanceMax, ", not ", guidance));
  }
  TURBOFLEET_RETURN_IF_ERROR(ValidateInitImage(request));
  return ValidateOutput(request);
}

std::vector<std::string> BadFieldsOf(const absl::Status& status) {
  std::vector<std::string> fields;
  const auto payload =
      status.GetPayload(absl::StrCat("type.googleapis.com/", google::rpc::BadRequest::descriptor()->full_name()));
  google::rpc::BadRequest request;
  if (!payload.has_value() || !request.ParseFromString(std::string(*payload))) return fields;
  for (const auto& violation : request.field_violations()) fields.push_back(violation.field());
  return fields;
}

}  // namespace turbofleet::client
