// Whatever bytes arrive, a request or a worker's message is refused by name or is within the limits.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "common/errors.h"
#include "common/text.h"
#include "coordinator/service/validate.h"
#include "tests/fuzz/require.h"

namespace {

void RequireRefusal(const absl::Status& status, std::string_view reason) {
  TURBOFLEET_REQUIRE(absl::IsInvalidArgument(status));
  TURBOFLEET_REQUIRE(turbofleet::ReasonOf(status) == reason);
  TURBOFLEET_REQUIRE(turbofleet::IsValidUtf8(std::string(status.message())));
}

void CheckRequest(const uint8_t* data, size_t size) {
  turbofleet::v1::GenerateImagesRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return;
  const auto job = turbofleet::ParseGenerateImagesRequest(request);
  if (!job.ok()) {
    RequireRefusal(job.status(), "INVALID_FIELD");
    return;
  }
  TURBOFLEET_REQUIRE(!job->prompts.empty() && job->prompts.size() <= turbofleet::kPromptsMax);
  for (const std::string& prompt : job->prompts) TURBOFLEET_REQUIRE(prompt.size() <= turbofleet::kPromptBytesMax);
  TURBOFLEET_REQUIRE(job->seeds_per_prompt >= 1);
  TURBOFLEET_REQUIRE(job->seeds.empty() || job->seeds.size() == static_cast<size_t>(job->seeds_per_prompt));
  TURBOFLEET_REQUIRE(job->steps >= 1 && job->steps <= 4);
  TURBOFLEET_REQUIRE(job->first_step >= 0 && job->first_step < job->steps);
  for (const int side : {job->width, job->height}) {
    TURBOFLEET_REQUIRE(side == 0 || (side >= 64 && side <= 1024 && side % 8 == 0));
  }
  TURBOFLEET_REQUIRE(job->guidance_scale >= 0.0 && job->guidance_scale <= 20.0);
  TURBOFLEET_REQUIRE(job->negative_prompt.empty() || job->guidance_scale > 1.0);
  TURBOFLEET_REQUIRE(job->init_image.empty() ? job->strength == 0.0 : job->strength > 0.0 && job->strength <= 1.0);
  TURBOFLEET_REQUIRE(job->quality >= 1 && job->quality <= 100);
  TURBOFLEET_REQUIRE(job->model.size() <= turbofleet::kNameBytesMax);
}

void CheckSession(const turbofleet::internal::worker::v1::SessionRequest& session) {
  const auto hello = turbofleet::ParseHello(session.hello());
  if (hello.ok()) {
    TURBOFLEET_REQUIRE(!hello->name.empty() && hello->name.size() <= turbofleet::kNameBytesMax);
    TURBOFLEET_REQUIRE(hello->model_digest.size() == std::string_view("sha256:").size() + 64);
    TURBOFLEET_REQUIRE(hello->default_width >= 64 && hello->default_width <= hello->size_max);
    TURBOFLEET_REQUIRE(hello->default_height >= 64 && hello->default_height <= hello->size_max);
    TURBOFLEET_REQUIRE(hello->batch_images_max >= 1 && hello->batch_images_max <= turbofleet::kBatchImagesMax);
  } else {
    RequireRefusal(hello.status(), "MALFORMED_MESSAGE");
  }
  const auto report = turbofleet::ParseReport(session.report());
  if (report.ok()) {
    TURBOFLEET_REQUIRE(report->leases.size() <= turbofleet::kReportLeasesMax);
  } else {
    RequireRefusal(report.status(), "MALFORMED_MESSAGE");
  }
}

void CheckDelivery(turbofleet::internal::worker::v1::DeliverImagesRequest* delivery) {
  const auto outcome = turbofleet::ParseOutcome(delivery);
  if (!outcome.ok()) {
    RequireRefusal(outcome.status(), "MALFORMED_MESSAGE");
    return;
  }
  if (const auto* const error = std::get_if<turbofleet::RenderError>(&*outcome); error != nullptr) {
    TURBOFLEET_REQUIRE(error->code != absl::StatusCode::kOk && !error->reason.empty());
    TURBOFLEET_REQUIRE(error->message.size() < 1'100 && turbofleet::IsValidUtf8(error->message));
    return;
  }
  const auto& picture = std::get<turbofleet::Picture>(*outcome);
  TURBOFLEET_REQUIRE(!picture.content.empty() && picture.content.size() <= turbofleet::kImageBytesMax);
  TURBOFLEET_REQUIRE(picture.pixel_sha256.size() == 64 && picture.prompt_tokens_cut >= 0);
  for (const absl::Duration stage : {picture.stages.text, picture.stages.vae_encode, picture.stages.unet,
                                     picture.stages.vae_decode, picture.stages.file_encode, picture.stages.transport}) {
    TURBOFLEET_REQUIRE(stage >= absl::ZeroDuration() && stage <= absl::Hours(24));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CheckRequest(data, size);
  turbofleet::internal::worker::v1::SessionRequest session;
  if (session.ParseFromArray(data, static_cast<int>(size))) CheckSession(session);
  turbofleet::internal::worker::v1::DeliverImagesRequest delivery;
  if (delivery.ParseFromArray(data, static_cast<int>(size))) CheckDelivery(&delivery);
  return 0;
}
