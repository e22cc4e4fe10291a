#include "client/cli/verify_plan.h"

#include <set>

#include "common/sha256.h"
#include "tests/client/cli/entries.h"
#include "tests/client/cli/temporary_folder.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(VerifyPlanTest, AsksForRawPixelsOfTheVeryModelAndOptions) {
  ManifestEntry entry = Entry(0, "a fox", 9);
  entry.width = 128;
  entry.steps = 3;
  entry.guidance_scale = 2;
  entry.negative_prompt = "blur";
  entry.vae = "tiny";
  entry.format = "jpeg";
  entry.quality = 40;
  const VerifyPlan plan = PlanVerification({entry}, ".");
  EXPECT_THAT(plan.problems, IsEmpty());
  ASSERT_THAT(plan.calls, SizeIs(1));
  const client::GenerateRequest& request = plan.calls[0].request;
  EXPECT_THAT(request.prompts, ElementsAre("a fox"));
  EXPECT_THAT(request.seeds, ElementsAre(9));
  EXPECT_EQ(request.width, 128);
  EXPECT_EQ(request.height, 64);
  EXPECT_EQ(request.steps, 3);
  EXPECT_EQ(request.guidance_scale, 2);
  EXPECT_EQ(request.negative_prompt, "blur");
  EXPECT_EQ(request.vae, client::Vae::kTiny);
  EXPECT_EQ(request.model, entry.model_digest);
  EXPECT_EQ(request.format, client::FileFormat::kRaw);
  EXPECT_FALSE(request.strength.has_value());
}

TEST(VerifyPlanTest, EveryEntryIsInExactlyOneCall) {
  std::vector<ManifestEntry> entries;
  for (int i = 0; i < 2500; ++i) entries.push_back(Entry(i, "prompt " + std::to_string(i % 1200), i % 2 == 0 ? 1 : 2));
  const VerifyPlan plan = PlanVerification(entries, ".");
  std::set<size_t> seen;
  for (const VerifyCall& call : plan.calls) {
    ASSERT_EQ(call.request.prompts.size(), call.entries.size());
    EXPECT_LE(call.request.prompts.size(), 1000u);
    ASSERT_THAT(call.request.seeds, SizeIs(1));
    for (size_t prompt = 0; prompt < call.entries.size(); ++prompt) {
      for (const size_t i : call.entries[prompt]) {
        EXPECT_TRUE(seen.insert(i).second);
        EXPECT_EQ(entries[i].prompt, call.request.prompts[prompt]);
        EXPECT_EQ(entries[i].seed, call.request.seeds[0]);
      }
    }
  }
  EXPECT_THAT(seen, SizeIs(entries.size()));
}

TEST(VerifyPlanTest, AStartPictureMustBeTheOneItWas) {
  const TemporaryFolder folder;
  const std::string picture = "\x89PNG\r\n\x1a\n....";
  folder.Write("start.png", picture);
  ManifestEntry entry = Entry(0);
  entry.steps = 2;
  entry.strength = 0.5;
  entry.init_image = "start.png";
  entry.init_image_sha256 = Sha256Hex(picture.data(), picture.size());
  const VerifyPlan plan = PlanVerification({entry}, folder.path());
  ASSERT_THAT(plan.calls, SizeIs(1));
  EXPECT_EQ(plan.calls[0].request.init_image, picture);
  EXPECT_EQ(plan.calls[0].request.strength, 0.5);

  ManifestEntry changed = entry, missing = entry;
  changed.init_image_sha256 = std::string(64, '0');
  missing.init_image = "none.png";
  const VerifyPlan with_problems = PlanVerification({entry, changed, missing}, folder.path());
  EXPECT_THAT(with_problems.calls, SizeIs(1));
  std::map<size_t, std::string> problems;
  for (const VerifyProblem& problem : with_problems.problems) problems[problem.entry] = problem.what;
  ASSERT_THAT(problems, SizeIs(2));
  EXPECT_THAT(problems[1], HasSubstr("is not the one it was"));
  EXPECT_THAT(problems[2], HasSubstr("cannot read"));
}

TEST(VerifyPlanTest, WhatNoClusterWouldTakeIsAProblemOfItsEntry) {
  ManifestEntry wrong = Entry(1);
  wrong.steps = 900;
  const VerifyPlan plan = PlanVerification({Entry(0), wrong}, ".");
  EXPECT_THAT(plan.calls, SizeIs(1));
  ASSERT_THAT(plan.problems, SizeIs(1));
  EXPECT_EQ(plan.problems[0].entry, 1u);
  EXPECT_THAT(plan.problems[0].what, HasSubstr("steps"));
}

}  // namespace
}  // namespace turbofleet::cli
