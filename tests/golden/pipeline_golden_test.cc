// Whole pictures and what lies between, against diffusers: the tiny model, whose weights never change, and the demo
// model that ships.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "tests/golden/budgets.h"
#include "tests/golden/golden.h"
#include "tests/support/status_matchers.h"
#include "worker/engine/sd_turbo/model.h"
#include "worker/engine/sd_turbo/pipeline.h"

namespace turbofleet {
namespace {

using sd_turbo::Pipeline;

std::unique_ptr<Pipeline> Load(const std::string& folder, Precision precision) {
  const sd_turbo::Placement placement{.device = at::kCPU,
                                      .dtype = precision == Precision::kFloat32 ? at::kFloat : at::kBFloat16};
  auto model = sd_turbo::LoadModel({.model = folder, .tiny_vae = ""}, placement);
  EXPECT_THAT(model, IsOk());
  if (!model.ok()) return nullptr;
  return std::make_unique<Pipeline>(*std::move(model), Pipeline::Options{});
}

RenderShape ShapeOf(const nlohmann::json& entry) {
  return {.width = entry["width"],
          .height = entry["height"],
          .steps = entry["steps"],
          .first_step = entry["first_step"],
          .image_to_image = entry.contains("strength"),
          .vae = entry.value("vae", "full") == "tiny" ? VaeKind::kTiny : VaeKind::kFull};
}

RenderRequest RequestOf(const nlohmann::json& entry) {
  RenderRequest request;
  request.prompt = entry["prompt"];
  request.negative_prompt = entry.value("negative_prompt", "");
  request.guidance_scale = entry.value("guidance_scale", 0.0);
  request.seed = entry["seed"];
  if (entry.contains("strength")) {
    request.init_image = std::make_shared<RgbImage>(StartPicture(entry["width"], entry["height"]));
  }
  return request;
}

// The worst of all cases by stage, printed for the table in the documentation.
class Report {
 public:
  void Add(const std::string& stage, const StageError& error) {
    worst_[stage].largest = std::max(worst_[stage].largest, error.largest);
    worst_[stage].mean_shift = std::max(worst_[stage].mean_shift, error.mean_shift);
  }
  void AddPsnr(double psnr) { psnr_ = std::min(psnr_, psnr); }
  void Print() const {
    for (const auto& [stage, error] : worst_) {
      std::printf("%-28s largest %.2e  mean %.2e\n", stage.c_str(), error.largest, error.mean_shift);
    }
    std::printf("lowest PSNR %.1f dB\n", psnr_);
  }

 private:
  std::map<std::string, StageError> worst_;
  double psnr_ = 99;
};

class PipelineGoldenTest : public ::testing::TestWithParam<Precision> {
 protected:
  void Check(const std::string& goldens_name, const std::string& folder) {
    const c10::InferenceMode no_gradients;
    const std::unique_ptr<Pipeline> pipeline = Load(folder, GetParam());
    ASSERT_NE(pipeline, nullptr);
    const Goldens goldens(goldens_name);
    const nlohmann::json cases = ReadGoldenJson(goldens_name)["cases"];
    ASSERT_GE(cases.size(), 15U);
    Report report;
    for (const nlohmann::json& entry : cases) CheckCase(*pipeline, goldens, entry, report);
    report.Print();
  }

 private:
  void CheckCase(Pipeline& pipeline, const Goldens& goldens, const nlohmann::json& entry, Report& report) {
    const std::string name = entry["name"];
    std::map<std::string, at::Tensor> stages;
    const RenderShape shape = ShapeOf(entry);
    TURBOFLEET_ASSERT_OK(pipeline.CheckShape(shape));
    const auto image = pipeline.Render(
        shape, RequestOf(entry), [] { return false; },
        [&stages](const std::string& stage, const at::Tensor& tensor) { stages.emplace(stage, tensor.clone()); });
    ASSERT_THAT(image, IsOk()) << name;
    int compared = 0;
    for (const auto& [stage, tensor] : stages) {
      const std::string key = name + "/" + stage;
      if (!goldens.Has(key)) continue;
      ++compared;
      const StageError error = goldens.Compare(key, tensor);
      const Budget budget = BudgetOf(stage, GetParam());
      EXPECT_LE(error.largest, budget.largest) << key;
      EXPECT_LE(error.mean_shift, budget.mean_shift) << key;
      report.Add(stage, error);
    }
    EXPECT_GE(compared, 2 + shape.steps - shape.first_step) << name;
    const double psnr = goldens.Psnr(name + "/picture.rgb", image->image);
    EXPECT_GE(psnr, PsnrMin(GetParam())) << name;
    report.AddPsnr(psnr);
  }
};

TEST_P(PipelineGoldenTest, TinyModelEqualsDiffusers) { Check("tiny", GoldenPath("tiny_model")); }

TEST_P(PipelineGoldenTest, DemoModelEqualsDiffusers) {
  Check("demo", std::string(TURBOFLEET_SOURCE_DIR) + "/worker/demo_model/model");
}

INSTANTIATE_TEST_SUITE_P(Precision, PipelineGoldenTest, ::testing::Values(Precision::kFloat32, Precision::kBfloat16),
                         [](const auto& info) { return info.param == Precision::kFloat32 ? "float32" : "bfloat16"; });

// The ids that every later stage starts from.
TEST(TokenGoldenTest, TinyAndDemoModelsCountTokensLikeTransformers) {
  const std::map<std::string, std::string> folders = {
      {"tiny", GoldenPath("tiny_model")}, {"demo", std::string(TURBOFLEET_SOURCE_DIR) + "/worker/demo_model/model"}};
  for (const auto& [name, folder] : folders) {
    const auto tokenizer = ClipTokenizer::Load(folder + "/tokenizer");
    ASSERT_THAT(tokenizer, IsOk());
    for (const nlohmann::json& entry : ReadGoldenJson(name)["tokens"]) {
      const auto tokens = tokenizer->Encode(entry["prompt"].get<std::string>());
      ASSERT_THAT(tokens, IsOk());
      EXPECT_EQ(tokens->ids, entry["ids"].get<std::vector<int64_t>>()) << name << ": " << entry["prompt"];
    }
  }
}

}  // namespace
}  // namespace turbofleet
