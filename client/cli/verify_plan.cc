#include "client/cli/verify_plan.h"

#include <filesystem>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/recipe.h"
#include "common/sha256.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

constexpr size_t kPromptsMax = 1'000;
constexpr size_t kInitImageBytesMax = 8 << 20;

// What images of one call have in common.
auto KeyOf(const ManifestEntry& entry) {
  return std::tie(entry.seed, entry.width, entry.height, entry.steps, entry.strength, entry.negative_prompt,
                  entry.guidance_scale, entry.vae, entry.init_image, entry.init_image_sha256, entry.model_digest);
}

struct ByKey {
  const std::vector<ManifestEntry>* entries;
  bool operator()(size_t a, size_t b) const { return KeyOf((*entries)[a]) < KeyOf((*entries)[b]); }
};

absl::StatusOr<client::GenerateRequest> RequestFor(const ManifestEntry& entry, const std::string& folder) {
  client::GenerateRequest request;
  request.seeds = {entry.seed};
  request.width = entry.width;
  request.height = entry.height;
  request.steps = entry.steps;
  request.negative_prompt = entry.negative_prompt;
  request.guidance_scale = entry.guidance_scale;
  request.format = client::FileFormat::kRaw;
  request.vae = entry.vae == "tiny" ? client::Vae::kTiny : client::Vae::kFull;
  request.model = entry.model_digest;
  if (!entry.init_image.empty()) {
    const std::string path = (std::filesystem::path(folder) / entry.init_image).string();
    TURBOFLEET_ASSIGN_OR_RETURN(request.init_image, ReadFile(path, kInitImageBytesMax));
    if (Sha256Hex(request.init_image.data(), request.init_image.size()) != entry.init_image_sha256) {
      return absl::FailedPreconditionError(absl::StrCat("the start picture ", path, " is not the one it was"));
    }
    request.strength = entry.strength;
  }
  // A prompt is needed for the check; each entry brings its own.
  request.prompts = {entry.prompt};
  TURBOFLEET_RETURN_IF_ERROR(client::Validate(request));
  request.prompts.clear();
  return request;
}

}  // namespace

VerifyPlan PlanVerification(const std::vector<ManifestEntry>& entries, const std::string& folder) {
  VerifyPlan plan;
  std::map<size_t, std::vector<size_t>, ByKey> groups(ByKey{&entries});
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].prompt_index.has_value()) {
      groups[i].push_back(i);
      continue;
    }
    plan.problems.push_back({i, "the folder does not know what it was made from: its job was created elsewhere"});
  }
  for (const auto& [first, members] : groups) {
    const absl::StatusOr<client::GenerateRequest> request = RequestFor(entries[first], folder);
    if (!request.ok()) {
      for (const size_t i : members) plan.problems.push_back({i, std::string(request.status().message())});
      continue;
    }
    std::map<std::string, std::vector<size_t>> by_prompt;
    for (const size_t i : members) by_prompt[entries[i].prompt].push_back(i);
    VerifyCall call = {.request = *request, .entries = {}};
    for (auto& [prompt, same] : by_prompt) {
      call.request.prompts.push_back(prompt);
      call.entries.push_back(std::move(same));
      if (call.entries.size() < kPromptsMax) continue;
      plan.calls.push_back(std::exchange(call, {.request = *request, .entries = {}}));
    }
    if (!call.entries.empty()) plan.calls.push_back(std::move(call));
  }
  return plan;
}

}  // namespace turbofleet::cli
