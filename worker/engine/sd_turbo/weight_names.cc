#include "worker/engine/sd_turbo/weight_names.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine/json/strict_json.h"

namespace turbofleet::sd_turbo {
namespace {

constexpr std::string_view kTextPrefix = "text_model.";

std::string CanonicalVaeName(std::string name) {
  static constexpr std::pair<std::string_view, std::string_view> kRenamed[] = {
      {".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}};
  if (name.find("mid_block.attentions.") == std::string::npos) return name;
  for (const auto& [old_part, new_part] : kRenamed) {
    const size_t at = name.find(old_part);
    if (at != std::string::npos) return name.replace(at, old_part.size(), new_part);
  }
  return name;
}

bool IsVaeAttentionMatrix(const std::string& name) {
  return name.find("mid_block.attentions.") != std::string::npos && name.find(".to_") != std::string::npos &&
         name.ends_with(".weight");
}

}  // namespace

std::string ComponentName(Component component) {
  switch (component) {
    case Component::kTextEncoder:
      return "text_encoder";
    case Component::kUNet:
      return "unet";
    case Component::kVae:
      return "vae";
    case Component::kTinyVae:
      return "vae_tiny";
  }
  return "";
}

absl::StatusOr<std::map<std::string, TensorView>> CanonicalNames(Component component,
                                                                 const std::map<std::string, TensorView>& tensors) {
  std::map<std::string, TensorView> result;
  for (const auto& [stored, tensor] : tensors) {
    std::string name = stored;
    TensorView view = tensor;
    if (component == Component::kTextEncoder) {
      if (name.starts_with(kTextPrefix)) name.erase(0, kTextPrefix.size());
      if (name == "embeddings.position_ids") continue;
    }
    if (component == Component::kVae) {
      name = CanonicalVaeName(std::move(name));
      const bool is_convolution = view.shape.size() == 4 && view.shape[2] == 1 && view.shape[3] == 1;
      if (is_convolution && IsVaeAttentionMatrix(name)) view.shape.resize(2);
    }
    if (!result.emplace(name, view).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(ComponentName(component), ": tensor ", Quoted(name), " is there under two names"));
    }
  }
  return result;
}

}  // namespace turbofleet::sd_turbo
