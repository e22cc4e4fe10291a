#include "client/cli/manifest.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

using Json = nlohmann::json;

absl::Status WrongKey(const std::string& key, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": ", what));
}

absl::Status Take(const Json& json, const std::string& key, bool required, std::string* value) {
  const auto found = json.find(key);
  if (found == json.end()) return required ? WrongKey(key, "is missing") : absl::OkStatus();
  if (!found->is_string()) return WrongKey(key, "is no text");
  *value = found->get<std::string>();
  return absl::OkStatus();
}

template <typename Integer>
absl::Status Take(const Json& json, const std::string& key, bool required, uint64_t max, Integer* value) {
  const auto found = json.find(key);
  if (found == json.end()) return required ? WrongKey(key, "is missing") : absl::OkStatus();
  if (!found->is_number_unsigned() || found->get<uint64_t>() > max) {
    return WrongKey(key, absl::StrCat("is no whole number from 0 to ", max));
  }
  *value = static_cast<Integer>(found->get<uint64_t>());
  return absl::OkStatus();
}

absl::Status Take(const Json& json, const std::string& key, bool required, double* value) {
  const auto found = json.find(key);
  if (found == json.end()) return required ? WrongKey(key, "is missing") : absl::OkStatus();
  if (!found->is_number()) return WrongKey(key, "is no number");
  *value = found->get<double>();
  return absl::OkStatus();
}

absl::Status TakeRequired(const Json& json, ManifestEntry* entry) {
  constexpr uint64_t kSideMax = 1 << 16;
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "index", true, uint64_t{1} << 62, &entry->index));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "prompt", true, &entry->prompt));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "seed", true, 4'294'967'295, &entry->seed));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "width", true, kSideMax, &entry->width));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "height", true, kSideMax, &entry->height));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "steps", true, 1000, &entry->steps));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "strength", true, &entry->strength));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "path", true, &entry->path));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "sha256", true, &entry->sha256));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "model_digest", true, &entry->model_digest));
  return Take(json, "worker", true, &entry->worker);
}

absl::Status TakeOptional(const Json& json, ManifestEntry* entry) {
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "id", false, &entry->id));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "negative_prompt", false, &entry->negative_prompt));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "guidance_scale", false, &entry->guidance_scale));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "format", false, &entry->format));
  if (json.contains("quality")) {
    int32_t quality = 0;
    TURBOFLEET_RETURN_IF_ERROR(Take(json, "quality", false, 100, &quality));
    entry->quality = quality;
  }
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "vae", false, &entry->vae));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "init_image", false, &entry->init_image));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "init_image_sha256", false, &entry->init_image_sha256));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "job", false, &entry->job));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "attempt", false, 1 << 30, &entry->attempt));
  TURBOFLEET_RETURN_IF_ERROR(Take(json, "prompt_tokens_cut", false, 1 << 30, &entry->prompt_tokens_cut));
  if (json.contains("prompt_index")) {
    int64_t prompt_index = 0;
    TURBOFLEET_RETURN_IF_ERROR(Take(json, "prompt_index", false, uint64_t{1} << 62, &prompt_index));
    entry->prompt_index = prompt_index;
  }
  return Take(json, "request", false, &entry->request);
}

}  // namespace

nlohmann::ordered_json ToJson(const ManifestEntry& entry) {
  nlohmann::ordered_json json = {{"index", entry.index},       {"prompt", entry.prompt},
                                 {"seed", entry.seed},         {"width", entry.width},
                                 {"height", entry.height},     {"steps", entry.steps},
                                 {"strength", entry.strength}, {"path", entry.path},
                                 {"sha256", entry.sha256},     {"model_digest", entry.model_digest},
                                 {"worker", entry.worker}};
  if (!entry.id.empty()) json["id"] = entry.id;
  if (!entry.negative_prompt.empty()) json["negative_prompt"] = entry.negative_prompt;
  if (entry.guidance_scale != 0) json["guidance_scale"] = entry.guidance_scale;
  json["format"] = entry.format;
  if (entry.quality.has_value()) json["quality"] = *entry.quality;
  json["vae"] = entry.vae;
  if (!entry.init_image.empty()) {
    json["init_image"] = entry.init_image;
    json["init_image_sha256"] = entry.init_image_sha256;
  }
  json["job"] = entry.job;
  json["attempt"] = entry.attempt;
  if (entry.prompt_tokens_cut > 0) json["prompt_tokens_cut"] = entry.prompt_tokens_cut;
  if (entry.prompt_index.has_value()) json["prompt_index"] = *entry.prompt_index;
  json["request"] = entry.request;
  return json;
}

absl::StatusOr<ManifestEntry> ParseManifestLine(std::string_view line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("is no JSON object");
  ManifestEntry entry;
  TURBOFLEET_RETURN_IF_ERROR(TakeRequired(json, &entry));
  TURBOFLEET_RETURN_IF_ERROR(TakeOptional(json, &entry));
  return entry;
}

absl::StatusOr<Manifest> ParseManifest(std::string_view text) {
  Manifest manifest;
  int64_t number = 0;
  while (manifest.bytes_whole < text.size()) {
    const std::string_view rest = text.substr(manifest.bytes_whole);
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) break;
    ++number;
    const std::string_view line = rest.substr(0, end);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      absl::StatusOr<ManifestEntry> entry = ParseManifestLine(line);
      if (!entry.ok()) return Annotate(entry.status(), absl::StrCat("line ", number));
      manifest.entries.push_back(*std::move(entry));
    }
    manifest.bytes_whole += end + 1;
  }
  return manifest;
}

}  // namespace turbofleet::cli
