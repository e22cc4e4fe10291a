// The client refuses what the coordinator would refuse, in the same words, before anything is sent. Each case is put to
// both, so that they cannot drift apart.
#include "coordinator/service/validate.h"

#include <cmath>
#include <limits>

#include "client/lib/convert.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/errors.h"

namespace turbofleet::client {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string& PngStart() {
  static const std::string& bytes = *new std::string("\x89PNG\r\n\x1a\n....");
  return bytes;
}

GenerateRequest With(const std::function<void(GenerateRequest*)>& change) {
  GenerateRequest request{.prompts = {"a fox"}};
  change(&request);
  return request;
}

struct Refused {
  std::string field;
  GenerateRequest request;
};

std::vector<Refused> RefusedRequests() {
  const auto from_picture = [](const auto& change) {
    return With([&](GenerateRequest* r) {
      r->init_image = PngStart();
      change(r);
    });
  };
  const double kNan = std::nan("");
  return {
      {"prompts", With([](auto* r) { r->prompts = {}; })},
      {"prompts", With([](auto* r) { r->prompts.assign(1001, "a"); })},
      {"prompts[1]", With([](auto* r) { r->prompts = {"a", std::string(4097, 'a')}; })},
      {"prompts[0]", With([](auto* r) { r->prompts = {"\xff"}; })},
      {"prompts[0]", With([](auto* r) { r->prompts = {"\xc0\x80"}; })},
      {"prompts[0]", With([](auto* r) { r->prompts = {"\xed\xa0\x80"}; })},
      {"negative_prompt", With([](auto* r) { r->negative_prompt = "x"; })},
      {"negative_prompt", With([](auto* r) { r->negative_prompt = "x", r->guidance_scale = 1; })},
      {"negative_prompt", With([](auto* r) { r->negative_prompt = std::string(4097, 'a'), r->guidance_scale = 2; })},
      {"seed", With([](auto* r) { r->seed = uint64_t{1} << 32; })},
      {"seeds[1]", With([](auto* r) { r->seeds = {1, uint64_t{1} << 32}; })},
      {"seed", With([](auto* r) { r->seeds = {1}, r->seed = 1; })},
      {"count", With([](auto* r) { r->seeds = {1}, r->count = 1; })},
      {"count", With([](auto* r) { r->count = 0; })},
      {"count", With([](auto* r) { r->count = -1; })},
      {"seed", With([](auto* r) { r->seed = 4294967295, r->count = 2; })},
      {"width", With([](auto* r) { r->width = 56; })},
      {"width", With([](auto* r) { r->width = 1032; })},
      {"width", With([](auto* r) { r->width = 68; })},
      {"width", With([](auto* r) { r->width = -64; })},
      {"height", With([](auto* r) { r->height = 0; })},
      {"steps", With([](auto* r) { r->steps = 0; })},
      {"steps", With([](auto* r) { r->steps = 5; })},
      {"guidance_scale", With([](auto* r) { r->guidance_scale = -0.1; })},
      {"guidance_scale", With([](auto* r) { r->guidance_scale = 20.1; })},
      {"guidance_scale", With([=](auto* r) { r->guidance_scale = kNan; })},
      {"guidance_scale", With([](auto* r) { r->guidance_scale = std::numeric_limits<double>::infinity(); })},
      {"strength", With([](auto* r) { r->strength = 0.5; })},
      {"init_image", With([](auto* r) { r->init_image = "GIF89a......"; })},
      {"init_image", With([](auto* r) { r->init_image = PngStart() + std::string(8 << 20, 'x'); })},
      {"strength", from_picture([](auto* r) { r->strength = 0; })},
      {"strength", from_picture([](auto* r) { r->strength = 1.01; })},
      {"strength", from_picture([=](auto* r) { r->strength = kNan; })},
      {"strength", from_picture([](auto* r) { r->strength = 0.4; })},
      {"strength", from_picture([](auto* r) { r->steps = 1; })},
      {"quality", With([](auto* r) { r->quality = 90; })},
      {"quality", With([](auto* r) { r->quality = 0, r->format = FileFormat::kJpeg; })},
      {"quality", With([](auto* r) { r->quality = 101, r->format = FileFormat::kWebp; })},
      {"embed_metadata", With([](auto* r) { r->embed_metadata = true, r->format = FileFormat::kRaw; })},
  };
}

TEST(ValidateTest, WhatIsRefusedIsRefusedByTheCoordinatorToo) {
  for (const Refused& refused : RefusedRequests()) {
    const absl::Status mine = Validate(refused.request);
    EXPECT_THAT(mine, StatusIs(absl::StatusCode::kInvalidArgument)) << refused.field;
    EXPECT_THAT(BadFieldsOf(mine), ElementsAre(refused.field)) << mine;
    const absl::Status theirs = ParseGenerateImagesRequest(ToProto(refused.request)).status();
    EXPECT_THAT(theirs, StatusIs(absl::StatusCode::kInvalidArgument)) << mine;
    EXPECT_THAT(BadFieldsOf(theirs), ElementsAre(refused.field)) << theirs;
  }
}

TEST(ValidateTest, WhatIsAcceptedIsAcceptedByTheCoordinatorToo) {
  const std::vector<GenerateRequest> requests = {
      With([](auto*) {}),
      With([](auto* r) { r->prompts.assign(1000, ""); }),
      With([](auto* r) { r->prompts = {std::string(4096, 'a'), "\xf0\x9f\xa6\x8a"}; }),
      With([](auto* r) { r->seed = 4294967295; }),
      With([](auto* r) { r->seeds = {4294967295, 0, 0}; }),
      With([](auto* r) { r->width = 64, r->height = 1024; }),
      With([](auto* r) { r->steps = 4, r->guidance_scale = 20, r->negative_prompt = "x"; }),
      With([](auto* r) { r->guidance_scale = 0; }),
      With([](auto* r) { r->init_image = PngStart(); }),
      With([](auto* r) { r->init_image = PngStart(), r->steps = 1, r->strength = 1; }),
      With([](auto* r) { r->init_image = PngStart(), r->steps = 4, r->strength = 0.25; }),
      With([](auto* r) { r->format = FileFormat::kRaw, r->embed_metadata = false, r->vae = Vae::kTiny; }),
      With([](auto* r) { r->format = FileFormat::kWebp, r->quality = 1, r->embed_metadata = false; })};
  for (const GenerateRequest& request : requests) {
    TURBOFLEET_EXPECT_OK(Validate(request));
    EXPECT_THAT(ParseGenerateImagesRequest(ToProto(request)), IsOk());
  }
}

// More than an index can count; what a coordinator takes in one call is its own, lower limit.
TEST(ValidateTest, TheNumberOfImagesHasToFitAnIndex) {
  EXPECT_THAT(BadFieldsOf(Validate(With([](auto* r) { r->prompts = {"a", "b"}, r->seed = 0, r->count = 1 << 30; }))),
              ElementsAre("count"));
}

TEST(BadFieldsTest, ErrorsOfOtherKindsNameNone) {
  EXPECT_THAT(BadFieldsOf(absl::OkStatus()), IsEmpty());
  EXPECT_THAT(BadFieldsOf(absl::UnavailableError("width: gone")), IsEmpty());
}

}  // namespace
}  // namespace turbofleet::client
