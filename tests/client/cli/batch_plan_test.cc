#include "client/cli/batch_plan.h"

#include <set>

#include "nlohmann/json.hpp"
#include "tests/client/cli/entries.h"
#include "tests/client/cli/temporary_folder.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

Row RowOf(int64_t number, const std::string& prompt, std::optional<uint64_t> seed = {},
          std::optional<int32_t> count = {}) {
  Row row;
  row.number = number;
  row.prompt = prompt;
  row.seed = seed;
  row.count = count;
  return row;
}

class BatchPlanTest : public ::testing::Test {
 protected:
  BatchPlan Plan(const std::vector<Row>& rows, const CallLimits& limits = {}, int32_t default_count = 1) {
    errors_.clear();
    folder_.reset();
    folder_ = *OutputFolder::Open(temporary_.path(), *NameTemplate::Parse("{index}"));
    const auto plan = PlanBatch(rows, /*default_seed=*/100, default_count, limits, folder_.get(),
                                [this](const Row& row, const absl::Status& error) {
                                  errors_.emplace_back(row.number, std::string(error.message()));
                                  return absl::OkStatus();
                                });
    EXPECT_THAT(plan, IsOk());
    return plan.value_or(BatchPlan());
  }

  // Puts the pictures of a plan into the folder, as a run would.
  void Finish(const BatchPlan& plan) {
    for (const Call& call : plan.calls) {
      for (size_t prompt = 0; prompt < call.sources.size(); ++prompt) {
        for (size_t i = 0; i < call.request.seeds.size(); ++i) {
          ManifestEntry entry =
              Entry(call.sources[prompt].indexes[i], call.request.prompts[prompt], call.request.seeds[i]);
          entry.request = RequestFingerprint(call, prompt, call.request.seeds[i]);
          TURBOFLEET_ASSERT_OK(folder_->AddImage("png", std::to_string(entry.index), &entry));
        }
      }
    }
  }

  TemporaryFolder temporary_;
  std::unique_ptr<OutputFolder> folder_;
  std::vector<std::pair<int64_t, std::string>> errors_;
};

TEST_F(BatchPlanTest, RowsThatDifferInTheirPromptAloneShareACall) {
  Row wide = RowOf(3, "c");
  wide.recipe.width = 128;
  const BatchPlan plan = Plan({RowOf(1, "a"), RowOf(2, "b"), wide, RowOf(4, "d", 7), RowOf(5, "e"), RowOf(6, "f", 7)});
  ASSERT_THAT(plan.calls, SizeIs(3));
  EXPECT_THAT(plan.calls[0].request.prompts, ElementsAre("a", "b", "e"));
  EXPECT_THAT(plan.calls[0].request.seeds, ElementsAre(100));
  EXPECT_THAT(plan.calls[1].request.prompts, ElementsAre("c"));
  EXPECT_EQ(plan.calls[1].request.width, 128);
  EXPECT_THAT(plan.calls[2].request.prompts, ElementsAre("d", "f"));
  EXPECT_THAT(plan.calls[2].request.seeds, ElementsAre(7));
  EXPECT_EQ(plan.images, 6);
  // Each row's image has the place that the row has in the file.
  EXPECT_THAT(plan.calls[0].sources[2].indexes, ElementsAre(4));
  EXPECT_EQ(plan.calls[0].sources[2].row, 5);
  EXPECT_THAT(plan.calls[2].sources[0].indexes, ElementsAre(3));
}

TEST_F(BatchPlanTest, CallsKeepToTheirLimits) {
  std::vector<Row> rows;
  for (int i = 0; i < 10; ++i) rows.push_back(RowOf(i + 1, "12345678"));
  const auto sizes = [&](const CallLimits& limits, int32_t count) {
    std::vector<size_t> sizes;
    for (const Call& call : Plan(rows, limits, count).calls) sizes.push_back(call.request.prompts.size());
    return sizes;
  };
  EXPECT_THAT(sizes({}, 1), ElementsAre(10));
  EXPECT_THAT(sizes({.prompts_max = 4}, 1), ElementsAre(4, 4, 2));
  EXPECT_THAT(sizes({.images_max = 9}, 3), ElementsAre(3, 3, 3, 1));
  EXPECT_THAT(sizes({.prompt_bytes_max = 24}, 1), ElementsAre(3, 3, 3, 1));
}

// One row may ask for more than a coordinator takes in one call; it becomes several.
TEST_F(BatchPlanTest, ALargeRowIsCutIntoCalls) {
  const BatchPlan plan = Plan({RowOf(1, "a", 5, 10)}, {.images_max = 4});
  ASSERT_THAT(plan.calls, SizeIs(3));
  EXPECT_EQ(plan.images, 10);
  std::vector<uint64_t> seeds;
  std::vector<int64_t> indexes;
  for (const Call& call : plan.calls) {
    seeds.insert(seeds.end(), call.request.seeds.begin(), call.request.seeds.end());
    indexes.insert(indexes.end(), call.sources[0].indexes.begin(), call.sources[0].indexes.end());
    EXPECT_EQ(call.sources[0].indexes.size(), call.request.seeds.size());
  }
  EXPECT_THAT(seeds, ElementsAre(5, 6, 7, 8, 9, 10, 11, 12, 13, 14));
  EXPECT_THAT(indexes, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST_F(BatchPlanTest, ARowThatIsWrongIsAnErrorAndKeepsItsPlaces) {
  Row unread = RowOf(2, "");
  unread.error = absl::InvalidArgumentError("line 2: the line is no JSON object");
  Row steps = RowOf(3, "c");
  steps.recipe.steps = 9;
  Row picture = RowOf(4, "d");
  picture.recipe.init_image_path = temporary_ / "none.png";
  const BatchPlan plan = Plan({RowOf(1, "a"), unread, steps, picture, RowOf(5, "e", 4294967295, 2), RowOf(6, "f", 1, 0),
                               RowOf(7, "g", 1, 2147483647), RowOf(8, std::string(4097, 'h')), RowOf(9, "i", 1)},
                              {}, 1);
  EXPECT_THAT(errors_,
              ElementsAre(Pair(2, HasSubstr("no JSON object")), Pair(3, HasSubstr("steps")),
                          Pair(4, HasSubstr("init_image")), Pair(5, HasSubstr("seed")), Pair(6, HasSubstr("count")),
                          Pair(7, HasSubstr("count")), Pair(8, HasSubstr("prompts[0]"))));
  ASSERT_THAT(plan.calls, SizeIs(2));
  EXPECT_EQ(plan.images, 2);
}

TEST_F(BatchPlanTest, ASecondPlanHoldsOnlyWhatIsMissing) {
  const std::vector<Row> rows = {RowOf(1, "a", 1, 3), RowOf(2, "b", 1, 3), RowOf(3, "a", 1, 3)};
  const BatchPlan first = Plan(rows);
  EXPECT_EQ(first.images, 9);
  Finish(first);
  const BatchPlan second = Plan(rows);
  EXPECT_THAT(second.calls, IsEmpty());
  EXPECT_EQ(second.earlier, 9);
  EXPECT_EQ(second.images, 0);

  std::filesystem::remove(temporary_ / "4.png");  // b, seed 2.
  const BatchPlan third = Plan(rows);
  ASSERT_THAT(third.calls, SizeIs(1));
  EXPECT_THAT(third.calls[0].request.prompts, ElementsAre("b"));
  EXPECT_THAT(third.calls[0].request.seeds, ElementsAre(2));
  EXPECT_EQ(third.earlier, 8);
}

// Whatever may change a picture or its file makes it another request.
TEST_F(BatchPlanTest, AnotherRequestIsNotMistakenForAnEarlierOne) {
  Finish(Plan({RowOf(1, "a", 1)}));
  const auto is_new = [&](const std::function<void(Row*)>& change) {
    Row row = RowOf(1, "a", 1);
    change(&row);
    return Plan({row}).images == 1;
  };
  EXPECT_FALSE(is_new([](Row*) {}));
  const std::string picture = temporary_.Write("start.png", "\x89PNG\r\n\x1a\n....");
  EXPECT_TRUE(is_new([](Row* r) { r->prompt = "b"; }));
  EXPECT_TRUE(is_new([](Row* r) { r->seed = 2; }));
  EXPECT_TRUE(is_new([](Row* r) { r->id = "x"; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.width = 64; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.height = 64; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.steps = 1; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.guidance_scale = 2; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.guidance_scale = 2, r->recipe.negative_prompt = "x"; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.format = "webp"; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.format = "webp", r->recipe.quality = 9; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.vae = "tiny"; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.model = "m"; }));
  EXPECT_TRUE(is_new([](Row* r) { r->recipe.embed_metadata = false; }));
  EXPECT_TRUE(is_new([&](Row* r) { r->recipe.init_image_path = picture; }));
}

TEST_F(BatchPlanTest, AnErrorOfTheErrorFileEndsIt) {
  const auto folder = OutputFolder::Open(temporary_.path(), *NameTemplate::Parse("{index}"));
  EXPECT_THAT(PlanBatch({RowOf(1, "a", 1, 0)}, 0, 1, {}, folder->get(),
                        [](const Row&, const absl::Status&) { return absl::DataLossError("disk full"); }),
              StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace turbofleet::cli
