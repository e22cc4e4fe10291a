#include "coordinator/service/validate.h"

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
namespace worker_pb = internal::worker::v1;

const std::string kPng("\x89PNG\r\n\x1a\n....", 12);
const std::string kJpeg("\xff\xd8\xff\xe0....", 8);
const std::string kWebp("RIFF....WEBPVP8 ", 16);
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

v1::GenerateImagesRequest Valid() {
  v1::GenerateImagesRequest request;
  request.add_prompts("a red circle");
  return request;
}

v1::GenerateImagesRequest ValidImageToImage() {
  v1::GenerateImagesRequest request = Valid();
  request.set_init_image(kPng);
  return request;
}

// ---- Requests

TEST(ParseGenerateImagesRequestTest, DefaultsAreThoseOfTheProto) {
  const absl::StatusOr<JobRequest> job = ParseGenerateImagesRequest(Valid());
  TURBOFLEET_ASSERT_OK(job);
  EXPECT_THAT(job->prompts, ElementsAre("a red circle"));
  EXPECT_EQ(job->negative_prompt, "");
  EXPECT_EQ(job->guidance_scale, 0.0);
  EXPECT_TRUE(job->seeds.empty());
  EXPECT_FALSE(job->first_seed.has_value());
  EXPECT_EQ(job->seeds_per_prompt, 1);
  EXPECT_EQ(job->width, 0);
  EXPECT_EQ(job->height, 0);
  EXPECT_EQ(job->steps, 1);
  EXPECT_EQ(job->first_step, 0);
  EXPECT_EQ(job->init_image, "");
  EXPECT_EQ(job->strength, 0.0);
  EXPECT_EQ(job->format, FileFormat::kPng);
  EXPECT_EQ(job->quality, 95);
  EXPECT_TRUE(job->embed_metadata);
  EXPECT_FALSE(job->tiny_vae);
  EXPECT_EQ(job->model, "");
}

TEST(ParseGenerateImagesRequestTest, DefaultsOfImageToImage) {
  for (const std::string& file : {kPng, kJpeg, kWebp}) {
    v1::GenerateImagesRequest request = Valid();
    request.set_init_image(file);
    const absl::StatusOr<JobRequest> job = ParseGenerateImagesRequest(request);
    TURBOFLEET_ASSERT_OK(job);
    EXPECT_EQ(job->init_image, file);
    EXPECT_EQ(job->steps, 2);
    EXPECT_EQ(job->strength, 0.5);
    EXPECT_EQ(job->first_step, 1);
  }
}

TEST(ParseGenerateImagesRequestTest, EveryFieldArrives) {
  v1::GenerateImagesRequest request = ValidImageToImage();
  request.add_prompts("");
  request.set_negative_prompt("blur");
  request.set_guidance_scale(1.5);
  request.add_seeds(4'294'967'295);
  request.add_seeds(0);
  request.set_width(64);
  request.set_height(1024);
  request.set_steps(4);
  request.set_strength(0.5);
  request.set_format(v1::IMAGE_FORMAT_WEBP);
  request.set_quality(1);
  request.set_embed_metadata(false);
  request.set_vae(v1::VAE_TINY);
  request.set_model("sd-turbo");
  const absl::StatusOr<JobRequest> job = ParseGenerateImagesRequest(request);
  TURBOFLEET_ASSERT_OK(job);
  EXPECT_THAT(job->prompts, ElementsAre("a red circle", ""));
  EXPECT_EQ(job->negative_prompt, "blur");
  EXPECT_EQ(job->guidance_scale, 1.5);
  EXPECT_THAT(job->seeds, ElementsAre(4'294'967'295, 0));
  EXPECT_EQ(job->seeds_per_prompt, 2);
  EXPECT_EQ(job->width, 64);
  EXPECT_EQ(job->height, 1024);
  EXPECT_EQ(job->steps, 4);
  EXPECT_EQ(job->first_step, 2);
  EXPECT_EQ(job->format, FileFormat::kWebp);
  EXPECT_EQ(job->quality, 1);
  EXPECT_FALSE(job->embed_metadata);
  EXPECT_TRUE(job->tiny_vae);
  EXPECT_EQ(job->model, "sd-turbo");
}

TEST(ParseGenerateImagesRequestTest, FormatsAreTold) {
  const std::pair<v1::ImageFormat, FileFormat> kFormats[] = {{v1::IMAGE_FORMAT_PNG, FileFormat::kPng},
                                                             {v1::IMAGE_FORMAT_JPEG, FileFormat::kJpeg},
                                                             {v1::IMAGE_FORMAT_WEBP, FileFormat::kWebp},
                                                             {v1::IMAGE_FORMAT_RAW, FileFormat::kRaw}};
  for (const auto& [proto, format] : kFormats) {
    v1::GenerateImagesRequest request = Valid();
    request.set_format(proto);
    const absl::StatusOr<JobRequest> job = ParseGenerateImagesRequest(request);
    TURBOFLEET_ASSERT_OK(job);
    EXPECT_EQ(job->format, format);
    EXPECT_EQ(job->embed_metadata, format != FileFormat::kRaw);
  }
}

// int(steps * strength) as the reference pipeline computes it, in double precision.
TEST(ParseGenerateImagesRequestTest, StepsThatRunFollowFromTheStrength) {
  struct Row {
    int steps;
    double strength;
    int first_step;
  };
  for (const Row& row : {Row{1, 1.0, 0}, Row{2, 1.0, 0}, Row{2, 0.99, 1}, Row{3, 0.34, 2}, Row{3, 2.0 / 3, 1},
                         Row{4, 0.25, 3}, Row{4, 0.75, 1}, Row{4, 0.74, 2}}) {
    v1::GenerateImagesRequest request = ValidImageToImage();
    request.set_steps(row.steps);
    request.set_strength(row.strength);
    const absl::StatusOr<JobRequest> job = ParseGenerateImagesRequest(request);
    TURBOFLEET_ASSERT_OK(job);
    EXPECT_EQ(job->first_step, row.first_step) << row.steps << " x " << row.strength;
  }
}

TEST(ParseGenerateImagesRequestTest, LimitsThemselvesAreAllowed) {
  v1::GenerateImagesRequest request = ValidImageToImage();
  for (int i = 1; i < kPromptsMax; ++i) request.add_prompts(std::string(kPromptBytesMax, 'x'));
  request.set_guidance_scale(20.0);
  request.set_negative_prompt(std::string(kPromptBytesMax, 'x'));
  request.set_seed(4'294'967'290);
  request.set_count(6);
  request.mutable_init_image()->resize(kInitImageBytesMax, '.');
  request.set_model(std::string(kNameBytesMax, 'x'));
  request.set_quality(100);
  request.set_format(v1::IMAGE_FORMAT_JPEG);
  TURBOFLEET_EXPECT_OK(ParseGenerateImagesRequest(request));
}

struct Refusal {
  std::string name;
  std::string field;  // That the error has to name.
  std::function<void(v1::GenerateImagesRequest*)> spoil;
  bool image_to_image = false;
};

std::vector<Refusal> Refusals() {
  using Request = v1::GenerateImagesRequest;
  return {
      {"NoPrompts", "prompts", [](Request* r) { r->clear_prompts(); }},
      {"TooManyPrompts", "prompts",
       [](Request* r) {
         for (int i = 0; i < 1'000; ++i) r->add_prompts(std::string("x"));
       }},
      {"LongPrompt", "prompts[1]", [](Request* r) { r->add_prompts(std::string(4'097, 'x')); }},
      {"PromptIsNotUtf8", "prompts[1]", [](Request* r) { r->add_prompts("\xc3("); }},
      {"NegativeWithoutGuidance", "negative_prompt", [](Request* r) { r->set_negative_prompt("x"); }},
      {"NegativeAtGuidanceOne", "negative_prompt",
       [](Request* r) { r->set_negative_prompt("x"), r->set_guidance_scale(1.0); }},
      {"LongNegative", "negative_prompt",
       [](Request* r) { r->set_guidance_scale(2.0), r->set_negative_prompt(std::string(4'097, 'x')); }},
      {"NegativeIsNotUtf8", "negative_prompt",
       [](Request* r) { r->set_guidance_scale(2.0), r->set_negative_prompt("\xff"); }},
      {"LargeSeed", "seed", [](Request* r) { r->set_seed(4'294'967'296); }},
      {"HugeSeed", "seed", [](Request* r) { r->set_seed(std::numeric_limits<uint64_t>::max()), r->set_count(2); }},
      {"SeedAndCount", "seed", [](Request* r) { r->set_seed(4'294'967'295), r->set_count(2); }},
      {"CountZero", "count", [](Request* r) { r->set_count(0); }},
      {"CountNegative", "count", [](Request* r) { r->set_count(-1); }},
      {"SeedsAndSeed", "seed", [](Request* r) { r->add_seeds(1), r->set_seed(0); }},
      {"SeedsAndCount", "count", [](Request* r) { r->add_seeds(1), r->set_count(1); }},
      {"LargeSeeds", "seeds[1]", [](Request* r) { r->add_seeds(1), r->add_seeds(4'294'967'296); }},
      {"WidthZero", "width", [](Request* r) { r->set_width(0); }},
      {"WidthSmall", "width", [](Request* r) { r->set_width(56); }},
      {"WidthLarge", "width", [](Request* r) { r->set_width(1'032); }},
      {"WidthOdd", "width", [](Request* r) { r->set_width(65); }},
      {"HeightNegative", "height", [](Request* r) { r->set_height(-64); }},
      {"HeightOdd", "height", [](Request* r) { r->set_height(508); }},
      {"StepsZero", "steps", [](Request* r) { r->set_steps(0); }},
      {"StepsFive", "steps", [](Request* r) { r->set_steps(5); }},
      {"GuidanceNegative", "guidance_scale", [](Request* r) { r->set_guidance_scale(-0.1); }},
      {"GuidanceLarge", "guidance_scale", [](Request* r) { r->set_guidance_scale(20.1); }},
      {"GuidanceNan", "guidance_scale", [](Request* r) { r->set_guidance_scale(kNan); }},
      {"GuidanceInfinite", "guidance_scale", [](Request* r) { r->set_guidance_scale(kInfinity); }},
      {"StrengthAlone", "strength", [](Request* r) { r->set_strength(0.5); }},
      {"StrengthZero", "strength", [](Request* r) { r->set_strength(0.0); }, true},
      {"StrengthLarge", "strength", [](Request* r) { r->set_strength(1.01); }, true},
      {"StrengthNan", "strength", [](Request* r) { r->set_strength(kNan); }, true},
      {"StrengthRunsNoStep", "strength", [](Request* r) { r->set_strength(0.24), r->set_steps(4); }, true},
      {"DefaultStrengthRunsNoStep", "strength", [](Request* r) { r->set_steps(1); }, true},
      {"InitImageIsText", "init_image", [](Request* r) { r->set_init_image("GIF89a......"); }},
      {"InitImageIsRiffOnly", "init_image", [](Request* r) { r->set_init_image("RIFF....WAVE...."); }},
      {"InitImageIsCut", "init_image", [](Request* r) { r->set_init_image("RIFF"); }},
      {"InitImageIsLarge", "init_image", [](Request* r) { r->mutable_init_image()->resize((8 << 20) + 1); }, true},
      {"FormatUnknown", "format", [](Request* r) { r->set_format(static_cast<v1::ImageFormat>(5)); }},
      {"FormatNegative", "format", [](Request* r) { r->set_format(static_cast<v1::ImageFormat>(-1)); }},
      {"QualityOfPng", "quality", [](Request* r) { r->set_quality(95); }},
      {"QualityZero", "quality", [](Request* r) { r->set_format(v1::IMAGE_FORMAT_JPEG), r->set_quality(0); }},
      {"QualityLarge", "quality", [](Request* r) { r->set_format(v1::IMAGE_FORMAT_WEBP), r->set_quality(101); }},
      {"MetadataInRaw", "embed_metadata",
       [](Request* r) { r->set_format(v1::IMAGE_FORMAT_RAW), r->set_embed_metadata(true); }},
      {"VaeUnknown", "vae", [](Request* r) { r->set_vae(static_cast<v1::Vae>(3)); }},
      {"LongModel", "model", [](Request* r) { r->set_model(std::string(129, 'x')); }},
      {"UnknownField", "request", [](Request* r) { r->GetReflection()->MutableUnknownFields(r)->AddVarint(99, 1); }},
  };
}

class RefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesTheField) {
  v1::GenerateImagesRequest request = GetParam().image_to_image ? ValidImageToImage() : Valid();
  GetParam().spoil(&request);
  const absl::Status status = ParseGenerateImagesRequest(request).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, StartsWith(GetParam().field + ": ")));
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELD");
}

INSTANTIATE_TEST_SUITE_P(Request, RefusalTest, ::testing::ValuesIn(Refusals()),
                         [](const auto& info) { return info.param.name; });

TEST(ParsePageSizeTest, FollowsAip158) {
  EXPECT_THAT(ParsePageSize(0), IsOkAndHolds(100));
  EXPECT_THAT(ParsePageSize(1), IsOkAndHolds(1));
  EXPECT_THAT(ParsePageSize(1'000), IsOkAndHolds(1'000));
  EXPECT_THAT(ParsePageSize(1'000'000), IsOkAndHolds(1'000));
  EXPECT_THAT(ParsePageSize(-1), StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("page_size: ")));
}

// ---- Workers

worker_pb::Hello ValidHello() {
  worker_pb::Hello hello;
  hello.set_worker("gpu-7.rack:1/0_a");
  hello.set_version("0.1.0");
  hello.set_model_name("sd-turbo");
  hello.set_model_digest(absl::StrCat("sha256:", std::string(64, 'a')));
  hello.set_device("cuda:0");
  hello.set_device_name("NVIDIA H100 80GB HBM3");
  hello.set_precision("float16");
  hello.set_default_width(512);
  hello.set_default_height(512);
  hello.set_size_max(1024);
  hello.set_batch_images_max(32);
  hello.set_has_tiny_vae(true);
  hello.set_incarnation(std::string(32, '0'));
  return hello;
}

TEST(ParseHelloTest, EveryFieldArrives) {
  const absl::StatusOr<WorkerIdentity> identity = ParseHello(ValidHello());
  TURBOFLEET_ASSERT_OK(identity);
  EXPECT_EQ(identity->name, "gpu-7.rack:1/0_a");
  EXPECT_EQ(identity->version, "0.1.0");
  EXPECT_EQ(identity->model_name, "sd-turbo");
  EXPECT_EQ(identity->model_digest, absl::StrCat("sha256:", std::string(64, 'a')));
  EXPECT_EQ(identity->device, "cuda:0");
  EXPECT_EQ(identity->device_name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(identity->precision, "float16");
  EXPECT_EQ(identity->default_width, 512);
  EXPECT_EQ(identity->default_height, 512);
  EXPECT_EQ(identity->size_max, 1024);
  EXPECT_EQ(identity->batch_images_max, 32);
  EXPECT_TRUE(identity->has_tiny_vae);
}

TEST(ParseHelloTest, WhatIsWrongIsNamed) {
  using Hello = worker_pb::Hello;
  const std::pair<const char*, std::function<void(Hello*)>> kRows[] = {
      {"hello.worker", [](Hello* h) { h->set_worker(""); }},
      {"hello.worker", [](Hello* h) { h->set_worker(std::string(129, 'a')); }},
      {"hello.worker", [](Hello* h) { h->set_worker("a b"); }},
      {"hello.worker", [](Hello* h) { h->set_worker("a\n"); }},
      {"hello.version", [](Hello* h) { h->clear_version(); }},
      {"hello.model_name", [](Hello* h) { h->set_model_name(std::string(129, 'a')); }},
      {"hello.device", [](Hello* h) { h->clear_device(); }},
      {"hello.device_name", [](Hello* h) { h->clear_device_name(); }},
      {"hello.precision", [](Hello* h) { h->clear_precision(); }},
      {"hello.model_digest", [](Hello* h) { h->set_model_digest(std::string(64, 'a')); }},
      {"hello.model_digest", [](Hello* h) { h->set_model_digest(absl::StrCat("sha256:", std::string(64, 'A'))); }},
      {"hello.model_digest", [](Hello* h) { h->set_model_digest(absl::StrCat("sha256:", std::string(63, 'a'))); }},
      {"hello.size_max", [](Hello* h) { h->set_size_max(63); }},
      {"hello.default_width", [](Hello* h) { h->set_default_width(0); }},
      {"hello.default_width", [](Hello* h) { h->set_size_max(504); }},
      {"hello.default_height", [](Hello* h) { h->set_default_height(100); }},
      {"hello.batch_images_max", [](Hello* h) { h->set_batch_images_max(0); }},
      {"hello.batch_images_max", [](Hello* h) { h->set_batch_images_max(1'025); }},
      {"hello.incarnation", [](Hello* h) { h->set_incarnation("x"); }},
  };
  for (const auto& [field, spoil] : kRows) {
    Hello hello = ValidHello();
    spoil(&hello);
    const absl::Status status = ParseHello(hello).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, StartsWith(std::string(field) + ": ")));
    EXPECT_EQ(ReasonOf(status), "MALFORMED_MESSAGE");
  }
}

TEST(ParseReportTest, EveryFieldArrives) {
  worker_pb::Report report;
  report.set_batches_taken_max(7);
  report.add_leases(3);
  report.set_last_lease_received(4);
  report.set_draining(true);
  report.set_progress(9);
  const absl::StatusOr<WorkerReport> parsed = ParseReport(report);
  TURBOFLEET_ASSERT_OK(parsed);
  EXPECT_EQ(parsed->batches_taken_max, 7);
  EXPECT_THAT(parsed->leases, ElementsAre(LeaseId{3}));
  EXPECT_EQ(parsed->last_lease_received, LeaseId{4});
  EXPECT_TRUE(parsed->draining);
  EXPECT_EQ(parsed->progress, 9);
  for (int i = 0; i < kReportLeasesMax; ++i) report.add_leases(3);
  EXPECT_THAT(ParseReport(report), StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("report.leases: ")));
}

worker_pb::DeliverImagesRequest ValidDelivery() {
  worker_pb::DeliverImagesRequest request;
  worker_pb::DeliveredImage& image = *request.mutable_image();
  image.set_content("file");
  image.set_pixel_sha256(std::string(64, '0'));
  image.set_batch_size(4);
  image.set_prompt_tokens_cut(2);
  image.mutable_text()->set_nanos(1);
  image.mutable_vae_encode()->set_nanos(2);
  image.mutable_unet()->set_nanos(3);
  image.mutable_vae_decode()->set_nanos(4);
  image.mutable_file_encode()->set_nanos(5);
  image.mutable_wait()->set_seconds(6);
  return request;
}

TEST(ParseOutcomeTest, APictureArrives) {
  worker_pb::DeliverImagesRequest request = ValidDelivery();
  const absl::StatusOr<RenderOutcome> outcome = ParseOutcome(&request);
  TURBOFLEET_ASSERT_OK(outcome);
  const Picture& picture = std::get<Picture>(*outcome);
  EXPECT_EQ(picture.content, "file");
  EXPECT_EQ(picture.pixel_sha256, std::string(64, '0'));
  EXPECT_EQ(picture.batch_size, 4);
  EXPECT_EQ(picture.prompt_tokens_cut, 2);
  EXPECT_EQ(picture.stages.text, absl::Nanoseconds(1));
  EXPECT_EQ(picture.stages.vae_encode, absl::Nanoseconds(2));
  EXPECT_EQ(picture.stages.unet, absl::Nanoseconds(3));
  EXPECT_EQ(picture.stages.vae_decode, absl::Nanoseconds(4));
  EXPECT_EQ(picture.stages.file_encode, absl::Nanoseconds(5));
  EXPECT_EQ(picture.stages.transport, absl::Seconds(6));
}

TEST(ParseOutcomeTest, TimesThatMakeNoSenseAreBounded) {
  worker_pb::DeliverImagesRequest request = ValidDelivery();
  request.mutable_image()->mutable_text()->set_seconds(-5);
  request.mutable_image()->mutable_unet()->set_seconds(std::numeric_limits<int64_t>::max());
  const absl::StatusOr<RenderOutcome> outcome = ParseOutcome(&request);
  TURBOFLEET_ASSERT_OK(outcome);
  EXPECT_EQ(std::get<Picture>(*outcome).stages.text, absl::ZeroDuration());
  EXPECT_EQ(std::get<Picture>(*outcome).stages.unet, absl::Hours(24));
}

TEST(ParseOutcomeTest, AFileThatClientsCouldNotReceiveIsAFailure) {
  worker_pb::DeliverImagesRequest request = ValidDelivery();
  request.mutable_image()->mutable_content()->resize(kImageBytesMax + 1);
  const absl::StatusOr<RenderOutcome> outcome = ParseOutcome(&request);
  TURBOFLEET_ASSERT_OK(outcome);
  EXPECT_EQ(std::get<RenderError>(*outcome).reason, "IMAGE_TOO_LARGE");
  EXPECT_EQ(std::get<RenderError>(*outcome).code, absl::StatusCode::kInvalidArgument);
}

TEST(ParseOutcomeTest, AFailureArrivesWithAReasonThatIsOne) {
  worker_pb::DeliverImagesRequest request;
  request.mutable_failure()->set_code(13);
  request.mutable_failure()->set_reason("IMAGE_NOT_FINITE");
  request.mutable_failure()->set_message("NaN");
  absl::StatusOr<RenderOutcome> outcome = ParseOutcome(&request);
  TURBOFLEET_ASSERT_OK(outcome);
  EXPECT_EQ(std::get<RenderError>(*outcome).code, absl::StatusCode::kInternal);
  EXPECT_EQ(std::get<RenderError>(*outcome).reason, "IMAGE_NOT_FINITE");
  EXPECT_EQ(std::get<RenderError>(*outcome).message, "NaN");
  for (const std::string& reason : {std::string(), std::string("free text"), std::string(64, 'A')}) {
    request.mutable_failure()->set_reason(reason);
    outcome = ParseOutcome(&request);
    TURBOFLEET_ASSERT_OK(outcome);
    EXPECT_EQ(std::get<RenderError>(*outcome).reason, "RENDER_FAILED");
  }
}

TEST(ParseOutcomeTest, WhatIsWrongIsNamed) {
  using Request = worker_pb::DeliverImagesRequest;
  const std::pair<const char*, std::function<void(Request*)>> kRows[] = {
      {"outcome", [](Request* r) { r->clear_outcome(); }},
      {"failure.code", [](Request* r) { r->mutable_failure()->set_code(0); }},
      {"failure.code", [](Request* r) { r->mutable_failure()->set_code(17); }},
      {"image.content", [](Request* r) { r->mutable_image()->clear_content(); }},
      {"image.pixel_sha256", [](Request* r) { r->mutable_image()->set_pixel_sha256(std::string(64, 'g')); }},
      {"image.pixel_sha256", [](Request* r) { r->mutable_image()->set_pixel_sha256(std::string(63, '0')); }},
      {"image.batch_size", [](Request* r) { r->mutable_image()->set_batch_size(0); }},
      {"image.batch_size", [](Request* r) { r->mutable_image()->set_batch_size(1'025); }},
      {"image.prompt_tokens_cut", [](Request* r) { r->mutable_image()->set_prompt_tokens_cut(-1); }},
  };
  for (const auto& [field, spoil] : kRows) {
    Request request = ValidDelivery();
    spoil(&request);
    const absl::Status status = ParseOutcome(&request).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, StartsWith(std::string(field) + ": ")));
    EXPECT_EQ(ReasonOf(status), "MALFORMED_MESSAGE");
  }
}

}  // namespace
}  // namespace turbofleet
