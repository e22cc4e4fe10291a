// Files of prompts: plain text, JSON lines, CSV.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/recipe.h"

namespace turbofleet::cli {

enum class InputFormat { kText, kJsonLines, kCsv };

// By name ("txt", "jsonl", "csv"). INVALID_ARGUMENT names --input-format.
absl::StatusOr<InputFormat> ParseInputFormat(const std::string& name);
// By the ending of a file's name: .txt, .jsonl or .ndjson, .csv. INVALID_ARGUMENT asks for --input-format.
absl::StatusOr<InputFormat> InputFormatOf(const std::string& path);

// What one row asks for. A field that it does not set is the command line's.
struct Row {
  int64_t number = 0;  // Among the rows, from 1; a CSV header and empty lines do not count.
  absl::Status error;  // What is wrong with the row; the fields are empty then.
  std::string id;
  std::string prompt;
  std::optional<uint64_t> seed;
  std::optional<int32_t> count;
  Recipe recipe;  // The command line's, with the row's own fields in place.
};

// Reads all rows. `defaults` are the command line's. A bad row is an error in its place; INVALID_ARGUMENT: the whole
// file makes no sense (a CSV header without "prompt", an unknown or repeated column, an open quote).
//
// Text: one prompt a line; empty lines are skipped. JSON lines: an object a line. CSV: RFC 4180 with a header. Fields:
// prompt, negative_prompt, seed, count, width, height, steps, strength, init_image, guidance_scale, id. In CSV an empty
// field is one that is not set, save for the prompt.
absl::StatusOr<std::vector<Row>> ParseRows(InputFormat format, std::string_view text, const Recipe& defaults);

// One prompt a line; empty lines are skipped.
std::vector<std::string> ParsePrompts(std::string_view text);

// RFC 4180: fields apart by commas, records by CRLF or LF; quoted fields may hold both, and quotes doubled. Empty
// lines are skipped. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<std::vector<std::string>>> ParseCsv(std::string_view text);

}  // namespace turbofleet::cli
