#include "worker/agent/parameters_text.h"

#include "common/version.h"
#include "gmock/gmock.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr RenderShape kShape = {
    .width = 512, .height = 768, .steps = 2, .first_step = 0, .image_to_image = false, .vae = VaeKind::kFull};

EngineInfo Engine(const std::string& name = "sd-turbo") {
  EngineInfo engine;
  engine.model_name = name;
  engine.model_digest = "sha256:0123456789abcdef" + std::string(48, '0');
  return engine;
}

std::string TextOf(const RenderRequest& request, const RenderShape& shape = kShape,
                   const EngineInfo& engine = Engine()) {
  WorkImage image;
  image.request = request;
  image.strength = shape.image_to_image ? 0.5 : 0.0;
  return ParametersText(image, shape, engine);
}

TEST(ParametersTextTest, IsWhatImageToolsRead) {
  EXPECT_EQ(TextOf({.prompt = "a fox, in snow", .negative_prompt = "blur", .guidance_scale = 1.5, .seed = 4294967295}),
            "a fox, in snow\n"
            "Negative prompt: blur\n"
            "Steps: 2, Sampler: Euler, CFG scale: 1.5, Seed: 4294967295, Size: 512x768, Model hash: 0123456789, "
            "Model: sd-turbo, Version: turbofleet " TURBOFLEET_VERSION);
}

TEST(ParametersTextTest, SaysNothingOfWhatWasNotAskedFor) {
  const std::string text = TextOf({.prompt = "a fox"});
  EXPECT_THAT(text, StartsWith("a fox\nSteps: 2, "));
  EXPECT_THAT(text, Not(HasSubstr("Negative")));
  EXPECT_THAT(text, Not(HasSubstr("strength")));
  EXPECT_THAT(text, Not(HasSubstr("VAE")));
}

TEST(ParametersTextTest, TellsOfTheStartPictureAndTheTinyVae) {
  RenderShape shape = kShape;
  shape.image_to_image = true;
  shape.vae = VaeKind::kTiny;
  EXPECT_THAT(TextOf({.prompt = "a fox"}, shape), HasSubstr(", Denoising strength: 0.5, VAE: tiny, Version:"));
}

// A prompt must not be able to pass off a part of itself as settings.
TEST(ParametersTextTest, LineBreaksInPromptsBecomeSpaces) {
  const std::string text = TextOf({.prompt = "a fox\nSteps: 50, Seed: 1\r\n\x7f", .negative_prompt = "x\ny"});
  EXPECT_THAT(text, StartsWith("a fox Steps: 50, Seed: 1   \nNegative prompt: x y\nSteps: 2,"));
}

TEST(ParametersTextTest, ModelNamesAreQuotedWhereTheyWouldBeMisread) {
  EXPECT_THAT(TextOf({}, kShape, Engine("my, \"own\" \\model")), HasSubstr(R"(Model: "my, \"own\" \\model", )"));
  EXPECT_THAT(TextOf({}, kShape, Engine("a:b")), HasSubstr(R"(Model: "a:b")"));
}

}  // namespace
}  // namespace turbofleet
