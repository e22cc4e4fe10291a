// Reads JSON files of a model's folder, which may come from anyone.
//
// The JSON library alone lets pass what an attacker or a broken tool writes: of two equal keys it keeps the last, it
// stops reading at a NUL byte, and it nests as deep as the text does. Here each of these is an error.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet {

struct JsonLimits {
  size_t bytes_max = 1 << 20;
  int depth_max = 16;             // Arrays and objects inside of one another.
  size_t values_max = 1'000'000;  // Of all kinds, keys not counted.
};

// Parses a whole text. INVALID_ARGUMENT says what is wrong and where. Never throws. Thread-safe.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text, const JsonLimits& limits);

// Reads a regular file of at most `bytes_max`. NOT_FOUND: no such file. INVALID_ARGUMENT: it is no regular file, or too
// large. UNAVAILABLE: it cannot be read. The message names the file.
absl::StatusOr<std::string> ReadFileLimited(const std::string& path, size_t bytes_max);

// The two together; errors name the file.
absl::StatusOr<nlohmann::json> ReadStrictJson(const std::string& path, const JsonLimits& limits);

// Makes text of a hostile file fit for a message: escaped, and cut where it is long.
std::string Quoted(std::string_view text);

}  // namespace turbofleet
