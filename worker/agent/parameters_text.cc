#include "worker/agent/parameters_text.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/version.h"

namespace turbofleet {
namespace {

// Control characters besides line breaks have no business in a text chunk either.
std::string OnOneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

// A value among "key: value, key: value" pairs; quoting is what readers undo.
std::string AsValue(std::string_view text) {
  const std::string line = OnOneLine(text);
  if (line.find_first_of(",:\"") == std::string::npos) return line;
  std::string quoted = "\"";
  for (const char c : line) {
    if (c == '"' || c == '\\') quoted.push_back('\\');
    quoted.push_back(c);
  }
  return quoted + "\"";
}

std::string ModelHash(std::string_view digest) {
  constexpr std::string_view kPrefix = "sha256:";
  if (digest.substr(0, kPrefix.size()) == kPrefix) digest.remove_prefix(kPrefix.size());
  return std::string(digest.substr(0, 10));
}

}  // namespace

std::string ParametersText(const WorkImage& image, const RenderShape& shape, const EngineInfo& engine) {
  std::string text = OnOneLine(image.request.prompt);
  if (!image.request.negative_prompt.empty()) {
    absl::StrAppend(&text, "\nNegative prompt: ", OnOneLine(image.request.negative_prompt));
  }
  absl::StrAppend(&text, "\nSteps: ", shape.steps, ", Sampler: Euler, CFG scale: ", image.request.guidance_scale,
                  ", Seed: ", image.request.seed, ", Size: ", shape.width, "x", shape.height,
                  ", Model hash: ", ModelHash(engine.model_digest), ", Model: ", AsValue(engine.model_name));
  if (shape.image_to_image) absl::StrAppend(&text, ", Denoising strength: ", image.strength);
  if (shape.vae == VaeKind::kTiny) absl::StrAppend(&text, ", VAE: tiny");
  absl::StrAppend(&text, ", Version: turbofleet ", TURBOFLEET_VERSION);
  return text;
}

}  // namespace turbofleet
