#include "client/cli/batch_plan.h"

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/sha256.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

// Prepared once per recipe: thousands of rows may start from one picture.
struct Prepared {
  absl::Status error;
  Call call;  // Without prompts and seeds.
};

Prepared Prepare(const Recipe& recipe) {
  Prepared prepared;
  absl::StatusOr<client::GenerateRequest> request = MakeRequest(recipe);
  if (!request.ok()) {
    prepared.error = request.status();
    return prepared;
  }
  prepared.call.request = *std::move(request);
  if (!prepared.call.request.init_image.empty()) {
    const std::string& file = prepared.call.request.init_image;
    prepared.call.init_image_path = recipe.init_image_path;
    prepared.call.init_image_sha256 = Sha256Hex(file.data(), file.size());
  }
  return prepared;
}

// Files to start from may be many and large, and each is held until its calls are made.
constexpr size_t kPreparedMax = 64;
// A slip of the keyboard must not fill the memory with seeds.
constexpr int32_t kRowImagesMax = 1'000'000;

class Planner {
 public:
  Planner(const CallLimits& limits, OutputFolder* folder, BatchPlan* plan)
      : limits_(limits), folder_(folder), plan_(plan) {}

  // Adds what is missing of the row. INVALID_ARGUMENT: the row is wrong.
  absl::Status Add(const Row& row, uint64_t first_seed, int32_t count, int64_t first_index) {
    const Prepared& prepared = PrepareOnce(row.recipe);
    TURBOFLEET_RETURN_IF_ERROR(prepared.error);
    Call call = prepared.call;
    call.request.prompts = {row.prompt};
    call.request.seed = first_seed;
    call.request.count = count;
    TURBOFLEET_RETURN_IF_ERROR(client::Validate(call.request));
    if (count > kRowImagesMax) {
      return InvalidField("count", absl::StrCat("may be at most ", kRowImagesMax, " in one row, not ", count));
    }
    call.request.seed.reset();
    call.request.count.reset();
    call.sources = {{.id = row.id, .row = row.number, .indexes = {}}};
    for (int32_t i = 0; i < count; ++i) {
      const uint64_t seed = first_seed + static_cast<uint64_t>(i);
      if (folder_->TakeEarlier(RequestFingerprint(call, 0, seed)) != nullptr) {
        ++plan_->earlier;
        continue;
      }
      ++plan_->images;
      call.request.seeds.push_back(seed);
      call.sources[0].indexes.push_back(folder_->TakeIndex(first_index + i));
      if (static_cast<int64_t>(call.request.seeds.size()) < limits_.images_max) continue;
      Put(row.recipe, call);
      call.request.seeds.clear();
      call.sources[0].indexes.clear();
    }
    if (!call.request.seeds.empty()) Put(row.recipe, std::move(call));
    return absl::OkStatus();
  }

 private:
  const Prepared& PrepareOnce(const Recipe& recipe) {
    const auto found = prepared_.find(recipe);
    if (found != prepared_.end()) return found->second;
    if (prepared_.size() >= kPreparedMax) prepared_.clear();
    return prepared_.emplace(recipe, Prepare(recipe)).first->second;
  }

  void Put(const Recipe& recipe, Call one) {
    const auto key = std::make_pair(recipe, one.request.seeds);
    const auto found = open_.find(key);
    const auto bytes = static_cast<int64_t>(one.request.prompts[0].size());
    if (found != open_.end()) {
      Call& call = plan_->calls[found->second.call];
      const auto images = static_cast<int64_t>((call.request.prompts.size() + 1) * call.request.seeds.size());
      if (call.request.prompts.size() < limits_.prompts_max && images <= limits_.images_max &&
          found->second.bytes + bytes <= limits_.prompt_bytes_max) {
        call.request.prompts.push_back(std::move(one.request.prompts[0]));
        call.sources.push_back(std::move(one.sources[0]));
        found->second.bytes += bytes;
        return;
      }
    }
    open_[key] = {.call = plan_->calls.size(), .bytes = bytes};
    plan_->calls.push_back(std::move(one));
  }

  struct Open {
    size_t call = 0;
    int64_t bytes = 0;
  };

  const CallLimits limits_;
  OutputFolder* const folder_;
  BatchPlan* const plan_;
  std::map<Recipe, Prepared> prepared_;
  std::map<std::pair<Recipe, std::vector<uint64_t>>, Open> open_;  // Calls with room, by what their rows share.
};

}  // namespace

absl::StatusOr<BatchPlan> PlanBatch(
    const std::vector<Row>& rows, uint64_t default_seed, int32_t default_count, const CallLimits& limits,
    OutputFolder* folder, const std::function<absl::Status(const Row& row, const absl::Status& error)>& on_row_error) {
  BatchPlan plan;
  Planner planner(limits, folder, &plan);
  int64_t index = 0;
  for (const Row& row : rows) {
    const int32_t count = row.count.value_or(default_count);
    const absl::Status status =
        row.error.ok() ? planner.Add(row, row.seed.value_or(default_seed), count, index) : row.error;
    if (!status.ok()) {
      TURBOFLEET_RETURN_IF_ERROR(on_row_error(row, status));
      // A row keeps its places when it is wrong, so that those after it keep theirs when it is put right.
      index += row.error.ok() && count > 0 ? count : default_count;
      continue;
    }
    index += count;
  }
  return plan;
}

}  // namespace turbofleet::cli
