// Whatever bytes arrive, a request is refused by name or becomes a job within the limits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "common/errors.h"
#include "coordinator/service/validate.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckRequest(const uint8_t* data, size_t size) {
  turbofleet::v1::GenerateImagesRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return;
  const auto job = turbofleet::ParseGenerateImagesRequest(request);
  if (!job.ok()) {
    Require(job.status().code() == absl::StatusCode::kInvalidArgument);
    Require(turbofleet::ReasonOf(job.status()) == "INVALID_FIELD");
    return;
  }
  Require(!job->prompts.empty() && job->prompts.size() <= turbofleet::kPromptsMax);
  Require(job->seeds_per_prompt >= 1);
  Require(job->seeds.empty() || job->seeds.size() == static_cast<size_t>(job->seeds_per_prompt));
  Require(job->steps >= 1 && job->steps <= 4);
  Require(job->first_step >= 0 && job->first_step < job->steps);
  Require(job->width % 8 == 0 && job->width >= 0 && job->width <= 1024);
  Require(job->height % 8 == 0 && job->height >= 0 && job->height <= 1024);
  Require(job->guidance_scale >= 0.0 && job->guidance_scale <= 20.0);
  Require(job->init_image.empty() ? job->strength == 0.0 : job->strength > 0.0 && job->strength <= 1.0);
  Require(job->quality >= 1 && job->quality <= 100);
}

void CheckWorker(const uint8_t* data, size_t size) {
  turbofleet::internal::worker::v1::SessionRequest session;
  if (session.ParseFromArray(data, static_cast<int>(size))) {
    (void)turbofleet::ParseHello(session.hello());
    (void)turbofleet::ParseReport(session.report());
  }
  turbofleet::internal::worker::v1::DeliverImagesRequest delivery;
  if (delivery.ParseFromArray(data, static_cast<int>(size))) (void)turbofleet::ParseOutcome(&delivery);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CheckRequest(data, size);
  CheckWorker(data, size);
  return 0;
}
