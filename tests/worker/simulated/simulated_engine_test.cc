#include "worker/engine/simulated/simulated_engine.h"

#include <map>
#include <set>

#include "common/images/codec.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Le;
using ::testing::SizeIs;

RenderShape Shape(int width = 64, int height = 64) {
  return {
      .width = width, .height = height, .steps = 1, .first_step = 0, .image_to_image = false, .vae = VaeKind::kFull};
}

RenderRequest Request(const std::string& prompt, uint32_t seed) {
  return {.prompt = prompt, .negative_prompt = "", .guidance_scale = 0, .seed = seed, .init_image = nullptr};
}

RenderBatch BatchOf(int images, uint32_t first_seed = 0) {
  RenderBatch batch{.shape = Shape(), .requests = {}};
  for (int i = 0; i < images; ++i) batch.requests.push_back(Request("a fox", first_seed + static_cast<uint32_t>(i)));
  return batch;
}

bool Nobody(size_t) { return false; }

// An engine whose time is counted instead of passed.
struct Simulation {
  explicit Simulation(const SimulatedEngineOptions& options)
      : engine(MakeSimulatedEngine(options, [this](absl::Duration time) { sleeps.push_back(time); })) {}

  std::map<size_t, absl::StatusOr<RenderedImage>> Render(const RenderBatch& batch,
                                                         const RenderAbandoned& abandoned = Nobody) {
    std::map<size_t, absl::StatusOr<RenderedImage>> results;
    device = engine->Render(batch, abandoned, [&](size_t i, absl::StatusOr<RenderedImage> result) {
      EXPECT_TRUE(results.emplace(i, std::move(result)).second) << "request " << i << " ended twice";
    });
    return results;
  }

  std::string DigestOf(const RenderShape& shape, const RenderRequest& request) {
    const auto results = Render({.shape = shape, .requests = {request}});
    EXPECT_THAT(results.at(0), IsOk());
    return PixelDigest(results.at(0)->image);
  }

  absl::Duration TakeTime() {
    absl::Duration sum;
    for (const absl::Duration sleep : sleeps) sum += sleep;
    sleeps.clear();
    return sum;
  }

  std::vector<absl::Duration> sleeps;
  absl::Status device;
  std::unique_ptr<Engine> engine;
};

TEST(SimulatedEngineTest, PicturesAreRealAndOfTheShapeAskedFor) {
  Simulation simulation({});
  for (const RenderShape& shape : {Shape(64, 64), Shape(128, 72), Shape(64, 1024)}) {
    const auto results = simulation.Render({.shape = shape, .requests = {Request("a fox", 1)}});
    TURBOFLEET_ASSERT_OK(results.at(0));
    const RgbImage& image = results.at(0)->image;
    EXPECT_EQ(image.width, shape.width);
    EXPECT_EQ(image.height, shape.height);
    const absl::StatusOr<std::string> png = EncodeImage(image, {});
    TURBOFLEET_ASSERT_OK(png);
    EXPECT_EQ(DecodeImage(*png, {})->pixels, image.pixels);
    EXPECT_GT((std::set<uint8_t>(image.pixels.begin(), image.pixels.end()).size()), 8u);  // Not one colour.
  }
}

// What makes it a stand-in for the real engine: the seed contract holds.
TEST(SimulatedEngineTest, APictureDependsOnItsRequestAndNothingElse) {
  Simulation alone({}), other({.image_time = absl::Seconds(9), .jitter = 1, .seed = 99});
  const std::string digest = alone.DigestOf(Shape(), Request("a fox", 5));
  EXPECT_EQ(alone.DigestOf(Shape(), Request("a fox", 5)), digest);
  for (int position = 0; position < 8; ++position) {
    RenderBatch batch = BatchOf(8, 1000);
    batch.requests[static_cast<size_t>(position)] = Request("a fox", 5);
    EXPECT_EQ(PixelDigest(other.Render(batch).at(static_cast<size_t>(position))->image), digest) << position;
  }
}

TEST(SimulatedEngineTest, EveryFieldOfARequestChangesThePicture) {
  Simulation simulation({});
  auto start =
      std::make_shared<RgbImage>(RgbImage{.width = 64, .height = 64, .pixels = std::vector<uint8_t>(64 * 64 * 3, 9)});
  auto brighter = std::make_shared<RgbImage>(*start);
  for (uint8_t& value : brighter->pixels) value = 200;
  RenderShape two_steps = Shape(), tiny = Shape(), from_picture = Shape(), later_step = Shape();
  two_steps.steps = 2;
  tiny.vae = VaeKind::kTiny;
  from_picture.steps = 2;
  from_picture.image_to_image = true;
  later_step = from_picture;
  later_step.first_step = 1;
  RenderRequest negative = Request("a fox", 1), guided = Request("a fox", 1), started = Request("a fox", 1),
                started_brighter = Request("a fox", 1);
  negative.negative_prompt = "snow";
  guided.guidance_scale = 2;
  started.init_image = start;
  started_brighter.init_image = brighter;
  const std::set<std::string> digests = {simulation.DigestOf(Shape(), Request("a fox", 1)),
                                         simulation.DigestOf(Shape(), Request("a fox", 2)),
                                         simulation.DigestOf(Shape(), Request("a foxx", 1)),
                                         simulation.DigestOf(Shape(), Request("", 1)),
                                         simulation.DigestOf(Shape(72), Request("a fox", 1)),
                                         simulation.DigestOf(two_steps, Request("a fox", 1)),
                                         simulation.DigestOf(tiny, Request("a fox", 1)),
                                         simulation.DigestOf(Shape(), negative),
                                         simulation.DigestOf(Shape(), guided),
                                         simulation.DigestOf(from_picture, started),
                                         simulation.DigestOf(later_step, started),
                                         simulation.DigestOf(from_picture, started_brighter)};
  EXPECT_THAT(digests, SizeIs(12));
}

TEST(SimulatedEngineTest, ABatchTakesItsTimeAndThatOfItsImages) {
  Simulation simulation({.batch_time = absl::Milliseconds(7), .image_time = absl::Milliseconds(10)});
  simulation.Render(BatchOf(3));
  EXPECT_EQ(simulation.TakeTime(), absl::Milliseconds(37));
  // Steps share the time of an image, so that there is a moment between them to give up.
  RenderBatch four_steps = BatchOf(1);
  four_steps.shape.steps = 4;
  const auto results = simulation.Render(four_steps);
  EXPECT_EQ(results.at(0)->times.unet, absl::Milliseconds(10));
  EXPECT_THAT(simulation.sleeps, SizeIs(1 + 4));
  EXPECT_EQ(simulation.TakeTime(), absl::Milliseconds(17));
}

TEST(SimulatedEngineTest, JitterVariesBatchesWithinItsBoundsAndByItsSeed) {
  const SimulatedEngineOptions options{.image_time = absl::Milliseconds(10), .jitter = 0.5, .seed = 3};
  const auto times_of = [](const SimulatedEngineOptions& with) {
    Simulation simulation(with);
    std::vector<absl::Duration> times;
    for (int i = 0; i < 200; ++i) {
      simulation.Render(BatchOf(1));
      times.push_back(simulation.TakeTime());
    }
    return times;
  };
  const std::vector<absl::Duration> times = times_of(options);
  EXPECT_THAT(times, Each(Ge(absl::Milliseconds(5))));
  EXPECT_THAT(times, Each(Le(absl::Milliseconds(15))));
  const auto [least, most] = std::minmax_element(times.begin(), times.end());
  EXPECT_LT(*least, absl::Milliseconds(6));
  EXPECT_GT(*most, absl::Milliseconds(14));
  EXPECT_EQ(times_of(options), times);
  SimulatedEngineOptions other_seed = options, also_crashing = options;
  other_seed.seed = 4;
  EXPECT_NE(times_of(other_seed), times);
  also_crashing.failure_rate = 0.5;  // One option does not change what another one does.
  EXPECT_EQ(times_of(also_crashing), times);
}

// A share of the requests fails, and the same ones on any worker and on every try: they are that kind of request.
TEST(SimulatedEngineTest, FailuresAreAFunctionOfTheRequest) {
  const auto failed_of = [](const SimulatedEngineOptions& options) {
    Simulation simulation(options);
    std::set<uint32_t> failed;
    for (uint32_t seed = 0; seed < 2000; seed += 8) {
      for (const auto& [i, result] : simulation.Render(BatchOf(8, seed))) {
        if (result.ok()) continue;
        EXPECT_THAT(result, StatusIs(absl::StatusCode::kInternal));
        failed.insert(seed + static_cast<uint32_t>(i));
      }
      EXPECT_THAT(simulation.device, IsOk());
    }
    return failed;
  };
  const std::set<uint32_t> failed = failed_of({.failure_rate = 0.1, .seed = 1});
  EXPECT_NEAR(static_cast<double>(failed.size()), 200, 60);
  EXPECT_EQ(failed_of({.jitter = 0.3, .failure_rate = 0.1, .seed = 2}), failed);
  EXPECT_THAT(failed_of({.failure_rate = 0}), SizeIs(0));
  EXPECT_THAT(failed_of({.failure_rate = 1}), SizeIs(2000));
}

TEST(SimulatedEngineTest, AFailedDeviceRendersNothingMore) {
  Simulation simulation({.fail_device_after = 2});
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(simulation.Render(BatchOf(3)), SizeIs(3));
    TURBOFLEET_EXPECT_OK(simulation.device);
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(simulation.Render(BatchOf(3)), SizeIs(0));
    EXPECT_THAT(simulation.device, StatusIs(absl::StatusCode::kInternal));
  }
}

TEST(SimulatedEngineDeathTest, ACrashEndsTheProcess) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(Simulation({.crash_rate = 1}).Render(BatchOf(1)), ::testing::ExitedWithCode(134), "");
}

TEST(SimulatedEngineTest, AbandonedImagesEndBetweenStepsAndCostNoMoreTime) {
  Simulation simulation({.image_time = absl::Milliseconds(40)});
  RenderBatch batch = BatchOf(3);
  batch.shape.steps = 4;
  std::map<size_t, int> asked;
  // Image 0 from the start, image 1 after two of its four steps, image 2 never.
  const auto results = simulation.Render(batch, [&](size_t i) { return i == 0 || (i == 1 && ++asked[i] > 2); });
  ASSERT_THAT(results, SizeIs(3));
  EXPECT_THAT(results.at(0), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(results.at(1), StatusIs(absl::StatusCode::kCancelled));
  TURBOFLEET_EXPECT_OK(results.at(2));
  EXPECT_EQ(simulation.TakeTime(), absl::Milliseconds(20 + 40));
}

TEST(SimulatedEngineTest, AStartPictureHasToGoWithTheShape) {
  Simulation simulation({});
  RenderShape from_picture = Shape();
  from_picture.image_to_image = true;
  RenderRequest started = Request("a fox", 1), small = Request("a fox", 1);
  started.init_image =
      std::make_shared<RgbImage>(RgbImage{.width = 64, .height = 64, .pixels = std::vector<uint8_t>(64 * 64 * 3)});
  small.init_image =
      std::make_shared<RgbImage>(RgbImage{.width = 8, .height = 8, .pixels = std::vector<uint8_t>(8 * 8 * 3)});
  const auto results = simulation.Render({.shape = from_picture, .requests = {started, small, Request("a fox", 1)}});
  TURBOFLEET_EXPECT_OK(results.at(0));
  EXPECT_THAT(results.at(1), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(results.at(2), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(simulation.Render({.shape = Shape(), .requests = {started}}).at(0),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(SimulatedEngineTest, ItTellsWhatItIs) {
  Simulation simulation({.width = 128, .height = 72, .batch_images_max = 5}), other({});
  TURBOFLEET_EXPECT_OK(simulation.engine->Warm());
  const EngineInfo& info = simulation.engine->Info();
  EXPECT_EQ(info.device, "simulated");
  EXPECT_EQ(info.default_width, 128);
  EXPECT_EQ(info.default_height, 72);
  EXPECT_EQ(info.batch_images_max, 5);
  EXPECT_THAT(info.model_digest, ::testing::MatchesRegex("sha256:[0-9a-f]{64}"));
  // Workers with other timings serve the same model.
  EXPECT_EQ(other.engine->Info().model_digest, info.model_digest);
  const std::string mine = "sha256:" + std::string(64, '1');
  EXPECT_EQ(Simulation({.model_digest = mine}).engine->Info().model_digest, mine);
}

}  // namespace
}  // namespace turbofleet
