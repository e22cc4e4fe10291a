// What makes a picture besides its prompt and seed, and how urgently: the flags that commands which draw share.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "turbofleet/client.h"

namespace turbofleet::cli {

struct Recipe {
  std::string negative_prompt;
  std::optional<int32_t> width;
  std::optional<int32_t> height;
  std::optional<int32_t> steps;
  std::optional<double> guidance_scale;
  std::string init_image_path;
  std::optional<double> strength;
  std::optional<std::string> format;  // "png", "jpeg", "webp", "raw".
  std::optional<int32_t> quality;
  std::optional<bool> embed_metadata;
  std::optional<std::string> vae;  // "full", "tiny".
  std::string model;
  std::optional<std::string> priority;  // "interactive", "normal", "bulk".

  friend auto operator<=>(const Recipe&, const Recipe&) = default;
};

// Adds the flags. `recipe` outlives the parse.
void AddRecipeFlags(CLI::App* command, Recipe* recipe);

// Parses "WIDTHxHEIGHT". INVALID_ARGUMENT names `field`.
absl::Status ParseSize(const std::string& field, const std::string& text, Recipe* recipe);

// Parses seeds and ranges of them: "1,5,10-20". INVALID_ARGUMENT names --seeds. At most 1,000,000 seeds.
absl::StatusOr<std::vector<uint64_t>> ParseSeeds(const std::string& text);

// Parses "KEY=VALUE"s. INVALID_ARGUMENT names --label.
absl::StatusOr<std::map<std::string, std::string>> ParseLabels(const std::vector<std::string>& texts);

// Parses "90", "90s", "5m" or "1h30m". INVALID_ARGUMENT names `flag`.
absl::StatusOr<absl::Duration> ParseTime(const std::string& flag, const std::string& text);
absl::StatusOr<absl::Duration> ParseDeadline(const std::string& text);

// A request without prompts and seeds. Reads the init image. NOT_FOUND, INVALID_ARGUMENT: it cannot be read, or the
// format or VAE is unknown.
absl::StatusOr<client::GenerateRequest> MakeRequest(const Recipe& recipe);

// The error in the words of the command line: "--steps must be 1 to 4, not 7" for what Validate() says of `steps`.
absl::Status InFlagWords(const absl::Status& status);

// Whole files. NOT_FOUND, INVALID_ARGUMENT: missing, unreadable, or larger than `bytes_max`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t bytes_max);

// The names of the command line and the manifest: "png", "bulk".
std::string FormatName(client::FileFormat format);
std::string PriorityName(client::Priority priority);
std::string FileExtension(client::FileFormat format);

}  // namespace turbofleet::cli
