// The engine's side of the contract in worker/engine/engine.h, on the tiny model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/sha256.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/sd_turbo/tiny_model.h"
#include "worker/engine/sd_turbo/sd_turbo_engine.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::unique_ptr<Engine> Load(const std::string& precision, int threads = 0, const std::string& folder = TinyModel()) {
  SdTurboOptions options;
  options.model_dir = folder;
  options.precision = precision;
  options.threads = threads;
  auto engine = MakeSdTurboEngine(options);
  EXPECT_THAT(engine, IsOk());
  return engine.ok() ? *std::move(engine) : nullptr;
}

RenderRequest Request(const std::string& prompt, uint32_t seed) {
  RenderRequest request;
  request.prompt = prompt;
  request.seed = seed;
  return request;
}

std::vector<absl::StatusOr<RenderedImage>> Render(
    Engine& engine, const RenderShape& shape, const std::vector<RenderRequest>& requests,
    const RenderAbandoned& abandoned = [](size_t) { return false; }) {
  std::vector<absl::StatusOr<RenderedImage>> images(requests.size(), absl::UnknownError("no call to done"));
  TURBOFLEET_EXPECT_OK(engine.Render({.shape = shape, .requests = requests}, abandoned,
                                     [&images](size_t i, absl::StatusOr<RenderedImage> image) {
                                       EXPECT_EQ(images[i].status().code(), absl::StatusCode::kUnknown) << "twice";
                                       images[i] = std::move(image);
                                     }));
  return images;
}

std::string Digest(const absl::StatusOr<RenderedImage>& image) {
  EXPECT_THAT(image, IsOk());
  return image.ok() ? Sha256Hex(image->image.pixels.data(), image->image.pixels.size()) : "";
}

std::string DigestOf(Engine& engine, const RenderShape& shape, const RenderRequest& request) {
  return Digest(Render(engine, shape, {request}).front());
}

// The promise that all else rests on: neither neighbours nor the position nor what came before change a byte.
TEST(SdTurboEngineTest, SameSeedGivesSameBytesInEveryBatch) {
  for (const char* precision : {"float32", "bfloat16"}) {
    const auto engine = Load(precision);
    const RenderShape shape{.width = 64, .height = 72, .steps = 2};
    const RenderRequest request = Request("a red circle", 7);
    const std::string alone = DigestOf(*engine, shape, request);
    EXPECT_EQ(DigestOf(*engine, shape, request), alone);
    for (size_t size = 2; size <= 8; ++size) {
      for (size_t position = 0; position < size; position += size > 4 ? 3 : 1) {
        std::vector<RenderRequest> requests;
        for (size_t i = 0; i < size; ++i) {
          requests.push_back(Request("neighbour " + std::to_string(i), static_cast<uint32_t>(100 * size + i)));
          if (i % 2 == 1) requests.back().guidance_scale = 2;
        }
        requests[position] = request;
        EXPECT_EQ(Digest(Render(*engine, shape, requests)[position]), alone) << precision << " " << size;
      }
    }
    EXPECT_EQ(DigestOf(*Load(precision), shape, request), alone) << "another engine";
  }
}

TEST(SdTurboEngineTest, EveryFieldOfARequestHasAnInfluence) {
  const auto engine = Load("float32");
  const RenderShape shape{.width = 64, .height = 64};
  const std::string plain = DigestOf(*engine, shape, Request("a", 1));
  EXPECT_NE(DigestOf(*engine, shape, Request("b", 1)), plain);
  EXPECT_NE(DigestOf(*engine, shape, Request("a", 2)), plain);
  RenderRequest guided = Request("a", 1);
  guided.guidance_scale = 1.5;
  const std::string with_guidance = DigestOf(*engine, shape, guided);
  EXPECT_NE(with_guidance, plain);
  guided.negative_prompt = "b";
  EXPECT_NE(DigestOf(*engine, shape, guided), with_guidance);
}

TEST(SdTurboEngineTest, WarmRendersThePictureOfTheDefaultSize) { TURBOFLEET_EXPECT_OK(Load("bfloat16")->Warm()); }

TEST(SdTurboEngineTest, CountsTokensThatDidNotFit) {
  const auto engine = Load("float32");
  std::string prompt;
  for (int i = 0; i < 100; ++i) prompt += "an ";
  const auto images = Render(*engine, {.width = 64, .height = 64}, {Request(prompt, 1), Request("an", 1)});
  ASSERT_THAT(images[0], IsOk());
  EXPECT_EQ(images[0]->prompt_tokens_cut, 25);
  EXPECT_EQ(images[1]->prompt_tokens_cut, 0);
  EXPECT_GT(images[0]->times.unet, absl::ZeroDuration());
  EXPECT_GT(images[0]->times.decode, absl::ZeroDuration());
}

TEST(SdTurboEngineTest, RefusesRequestsThatNobodyCanRender) {
  const auto engine = Load("float32");
  const RenderShape shape{.width = 64, .height = 64};
  RenderRequest invalid_text = Request("\xFF\xFE", 1);
  RenderRequest unheard = Request("a", 1);
  unheard.negative_prompt = "b";
  RenderRequest wild = Request("a", 1);
  wild.guidance_scale = std::numeric_limits<double>::infinity();
  RenderRequest pictured = Request("a", 1);
  pictured.init_image = std::make_shared<RgbImage>();
  const auto images = Render(*engine, shape, {invalid_text, unheard, wild, pictured, Request("a", 1)});
  EXPECT_THAT(images[0], StatusIs(kInvalid));
  EXPECT_THAT(images[1], StatusIs(kInvalid, HasSubstr("negative_prompt")));
  EXPECT_THAT(images[2], StatusIs(kInvalid, HasSubstr("guidance_scale")));
  EXPECT_THAT(images[3], StatusIs(kInvalid, HasSubstr("init_image")));
  EXPECT_THAT(images[4], IsOk());
}

TEST(SdTurboEngineTest, RefusesShapesOutOfRange) {
  const auto engine = Load("float32");
  const std::pair<RenderShape, const char*> kCases[] = {
      {{.width = 60, .height = 64}, "width"},
      {{.width = 56, .height = 64}, "width"},
      {{.width = 64, .height = 1032}, "height"},
      {{.width = 64, .height = 64, .steps = 0}, "steps"},
      {{.width = 64, .height = 64, .steps = 5}, "steps"},
      {{.width = 64, .height = 64, .steps = 2, .first_step = 1}, "first_step"},
      {{.width = 64, .height = 64, .steps = 2, .first_step = 2, .image_to_image = true}, "first_step"},
      {{.width = 64, .height = 64, .image_to_image = true}, "init_image"},
  };
  for (const auto& [shape, field] : kCases) {
    EXPECT_THAT(Render(*engine, shape, {Request("a", 1)}).front(), StatusIs(kInvalid, HasSubstr(field)));
  }
  const auto images = Render(*engine, {.width = 64, .height = 64}, std::vector<RenderRequest>(9, Request("a", 1)));
  for (const auto& image : images) EXPECT_THAT(image, StatusIs(kInvalid, HasSubstr("batch")));
}

TEST(SdTurboEngineTest, StopsBetweenStepsOnceNobodyWantsTheImage) {
  const auto engine = Load("float32");
  int questions = 0;
  const auto images = Render(*engine, {.width = 64, .height = 64, .steps = 4}, {Request("a", 1), Request("b", 2)},
                             [&questions](size_t i) { return i == 0 && ++questions == 3; });
  EXPECT_EQ(questions, 3);
  EXPECT_THAT(images[0], StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(images[1], IsOk());
}

TEST(SdTurboEngineTest, ReportsABrokenPicture) {
  TinyModelCopy copy;
  copy.EditTensors("vae",
                   [](auto& tensors) { tensors.at("decoder.conv_out.bias").bytes = "\xFF\x7F\xFF\x7F\xFF\x7F"; });
  const auto engine = Load("float32", 0, copy.folder());
  EXPECT_THAT(Render(*engine, {.width = 64, .height = 64}, {Request("a", 1)}).front(),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("no numbers")));
}

}  // namespace
}  // namespace turbofleet
