#include "client/cli/recipe.h"

#include "common/errors.h"
#include "tests/client/cli/temporary_folder.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// The recipe of a command line; an error of CLI11 is its message.
absl::StatusOr<Recipe> ParseFlags(const std::string& arguments) {
  CLI::App app;
  Recipe recipe;
  AddRecipeFlags(&app, &recipe);
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return recipe;
}

TEST(RecipeTest, EveryFlagReachesTheRequest) {
  const TemporaryFolder folder;
  const std::string picture = folder.Write("start.png", "\x89PNG\r\n\x1a\n");
  const absl::StatusOr<Recipe> recipe = ParseFlags(
      "--size 64x128 --steps 4 --guidance 2.5 --negative blur --strength 0.5 --vae tiny --model m --format webp "
      "--quality 7 --no-metadata --init-image " +
      picture);
  TURBOFLEET_ASSERT_OK(recipe);
  const absl::StatusOr<client::GenerateRequest> request = MakeRequest(*recipe);
  TURBOFLEET_ASSERT_OK(request);
  EXPECT_EQ(request->width, 64);
  EXPECT_EQ(request->height, 128);
  EXPECT_EQ(request->steps, 4);
  EXPECT_EQ(request->guidance_scale, 2.5);
  EXPECT_EQ(request->negative_prompt, "blur");
  EXPECT_EQ(request->strength, 0.5);
  EXPECT_EQ(request->vae, client::Vae::kTiny);
  EXPECT_EQ(request->model, "m");
  EXPECT_EQ(request->format, client::FileFormat::kWebp);
  EXPECT_EQ(request->quality, 7);
  EXPECT_EQ(request->embed_metadata, false);
  EXPECT_EQ(request->init_image, "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(ParseFlags("--cfg-scale 3")->guidance_scale, 3);
}

// A default that is filled in here would be one that the cluster cannot choose any more.
TEST(RecipeTest, WhatIsNotGivenIsLeftToTheCluster) {
  const absl::StatusOr<client::GenerateRequest> request = MakeRequest(*ParseFlags(""));
  TURBOFLEET_ASSERT_OK(request);
  EXPECT_FALSE(request->width.has_value() || request->height.has_value() || request->steps.has_value() ||
               request->guidance_scale.has_value() || request->strength.has_value() || request->format.has_value() ||
               request->quality.has_value() || request->embed_metadata.has_value() || request->vae.has_value());
}

TEST(RecipeTest, WrongValuesAreRefusedByTheParser) {
  for (const std::string arguments : {"--size 64", "--size 64x", "--size x64", "--size 64x64x64", "--size 64*64",
                                      "--size -64x64x", "--size 1e2x64", "--steps two", "--vae small", "--format gif",
                                      "--quality best", "--guidance strong", "--strength", "--sizes 1x1"}) {
    EXPECT_THAT(ParseFlags(arguments), StatusIs(kInvalid)) << arguments;
  }
}

TEST(RecipeTest, AStartPictureThatCannotBeReadIsNamed) {
  const TemporaryFolder folder;
  const auto request_from = [](const std::string& path) {
    Recipe recipe;
    recipe.init_image_path = path;
    return MakeRequest(recipe);
  };
  EXPECT_THAT(request_from(folder / "none.png"), StatusIs(kInvalid, HasSubstr("init_image: cannot read")));
  EXPECT_THAT(request_from(folder.path()), StatusIs(kInvalid, HasSubstr("init_image")));
  EXPECT_THAT(request_from(folder.Write("empty.png", "")), StatusIs(kInvalid, HasSubstr("is empty")));
  EXPECT_THAT(request_from(folder.Write("large.png", std::string((8 << 20) + 1, 'x'))),
              StatusIs(kInvalid, HasSubstr("more than 8388608 bytes")));
}

TEST(ParseSeedsTest, ReadsNumbersAndRanges) {
  EXPECT_THAT(ParseSeeds("7"), IsOkAndHolds(ElementsAre(7)));
  EXPECT_THAT(ParseSeeds("1,5,10-12,5"), IsOkAndHolds(ElementsAre(1, 5, 10, 11, 12, 5)));
  EXPECT_THAT(ParseSeeds("3-3"), IsOkAndHolds(ElementsAre(3)));
  EXPECT_THAT(ParseSeeds("0-999999"), IsOkAndHolds(SizeIs(1'000'000)));
}

TEST(ParseSeedsTest, RefusesTheRestWithoutMakingIt) {
  for (const std::string text :
       {"", ",", "1,", "-1", "--", "1-", "5-4", "1..3", "a", "1 2", "1.5", "0x1", "99999999999999999999"}) {
    EXPECT_THAT(ParseSeeds(text), StatusIs(kInvalid, HasSubstr("seeds"))) << text;
  }
  for (const std::string text : {"0-1000000", "0-999999,5", "0-18446744073709551615", "5-4294967295"}) {
    EXPECT_THAT(ParseSeeds(text), StatusIs(kInvalid, HasSubstr("more than 1000000"))) << text;
  }
}

TEST(ParseDeadlineTest, ReadsSecondsAndDurations) {
  EXPECT_THAT(ParseDeadline("90"), IsOkAndHolds(absl::Seconds(90)));
  EXPECT_THAT(ParseDeadline("0.5"), IsOkAndHolds(absl::Milliseconds(500)));
  EXPECT_THAT(ParseDeadline("1h30m"), IsOkAndHolds(absl::Minutes(90)));
  for (const std::string text : {"", "0", "-5", "-5s", "soon", "nan", "inf", "9000h", "5 m", "1e300"}) {
    EXPECT_THAT(ParseDeadline(text), StatusIs(kInvalid, HasSubstr("--deadline"))) << text;
  }
}

TEST(InFlagWordsTest, FieldsBecomeFlags) {
  const auto words = [](const std::string& field) {
    return std::string(InFlagWords(InvalidField(field, "is wrong")).message());
  };
  EXPECT_EQ(words("steps"), "--steps: is wrong");
  EXPECT_EQ(words("guidance_scale"), "--guidance: is wrong");
  EXPECT_EQ(words("width"), "--size (width): is wrong");
  EXPECT_EQ(words("prompts[3]"), "PROMPT[3]: is wrong");
  EXPECT_EQ(words("--deadline"), "--deadline: is wrong");
  EXPECT_EQ(words("unheard_of"), "unheard_of: is wrong");
  EXPECT_EQ(InFlagWords(absl::UnavailableError("gone")), absl::UnavailableError("gone"));
}

TEST(ReadFileTest, TakesAtMostWhatItMay) {
  const TemporaryFolder folder;
  const std::string file = folder.Write("file", std::string(100'000, 'x'));
  EXPECT_THAT(ReadFile(file, 100'000), IsOkAndHolds(SizeIs(100'000)));
  EXPECT_THAT(ReadFile(file, 99'999), StatusIs(kInvalid));
  EXPECT_THAT(ReadFile("/dev/zero", 1 << 20), StatusIs(kInvalid));
  EXPECT_THAT(ReadFile(folder / "none", 1), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace turbofleet::cli
