#include "client/cli/batch_input.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/status.h"
#include "common/text.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFields[] = {"prompt", "negative_prompt", "seed",       "count",          "width", "height",
                                        "steps",  "strength",        "init_image", "guidance_scale", "id"};
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

bool IsField(const std::string& name) {
  return std::find(std::begin(kFields), std::end(kFields), name) != std::end(kFields);
}

std::string_view WithoutByteOrderMark(std::string_view text) {
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) text.remove_prefix(kByteOrderMark.size());
  return text;
}

std::string_view WithoutCarriageReturn(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// Calls `on_line` with each line and its number from 1.
template <typename OnLine>
void ForEachLine(std::string_view text, const OnLine& on_line) {
  int64_t number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    on_line(++number, WithoutCarriageReturn(text.substr(0, end)));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
}

template <typename Number>
absl::Status SetNumber(const std::string& field, std::string_view text, std::optional<Number>* value) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    return InvalidField(
        field, absl::StrCat("is no number in its range: ", JsonQuote(TruncateUtf8(ReplaceInvalidUtf8(text), 40))));
  }
  *value = number;
  return absl::OkStatus();
}

// Sets one field from text.
absl::Status SetField(const std::string& field, const std::string& text, Row* row) {
  if (!IsValidUtf8(text)) return InvalidField(field, "is not UTF-8");
  if (field == "prompt") row->prompt = text;
  if (field == "negative_prompt") row->recipe.negative_prompt = text;
  if (field == "init_image") row->recipe.init_image_path = text;
  if (field == "id") row->id = text;
  if (field == "seed") return SetNumber(field, text, &row->seed);
  if (field == "count") return SetNumber(field, text, &row->count);
  if (field == "width") return SetNumber(field, text, &row->recipe.width);
  if (field == "height") return SetNumber(field, text, &row->recipe.height);
  if (field == "steps") return SetNumber(field, text, &row->recipe.steps);
  if (field == "strength") return SetNumber(field, text, &row->recipe.strength);
  if (field == "guidance_scale") return SetNumber(field, text, &row->recipe.guidance_scale);
  return absl::OkStatus();
}

bool IsTextField(const std::string& field) {
  return field == "prompt" || field == "negative_prompt" || field == "init_image" || field == "id";
}

absl::Status ReadObject(std::string_view line, Row* row) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("the line is no JSON object");
  if (!json.contains("prompt")) return InvalidField("prompt", "is missing");
  for (const auto& [field, value] : json.items()) {
    if (!IsField(field)) return InvalidField(field, "is no field of a row");
    if (value.is_null()) continue;
    if (value.is_string() != IsTextField(field) || !(value.is_string() || value.is_number())) {
      // An id may be a number: many tables have such.
      if (field != "id" || !value.is_number_integer()) {
        return InvalidField(field, IsTextField(field) ? "is no text" : "is no number");
      }
    }
    TURBOFLEET_RETURN_IF_ERROR(SetField(field, value.is_string() ? value.get<std::string>() : value.dump(), row));
  }
  return absl::OkStatus();
}

Row EmptyRow(int64_t number, const Recipe& defaults) {
  Row row;
  row.number = number;
  row.recipe = defaults;
  return row;
}

std::vector<Row> ParseText(std::string_view text, const Recipe& defaults) {
  std::vector<Row> rows;
  for (const std::string& prompt : ParsePrompts(text)) {
    Row row = EmptyRow(static_cast<int64_t>(rows.size()) + 1, defaults);
    row.error = SetField("prompt", prompt, &row);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Row> ParseJsonLines(std::string_view text, const Recipe& defaults) {
  std::vector<Row> rows;
  ForEachLine(text, [&](int64_t line_number, std::string_view line) {
    if (line.find_first_not_of(" \t") == std::string_view::npos) return;
    Row row = EmptyRow(static_cast<int64_t>(rows.size()) + 1, defaults);
    row.error = Annotate(ReadObject(line, &row), absl::StrCat("line ", line_number));
    rows.push_back(std::move(row));
  });
  return rows;
}

absl::StatusOr<std::vector<Row>> ParseCsvRows(std::string_view text, const Recipe& defaults) {
  TURBOFLEET_ASSIGN_OR_RETURN(const std::vector<std::vector<std::string>> records, ParseCsv(text));
  if (records.empty()) return absl::InvalidArgumentError("there is no header line");
  const std::vector<std::string>& header = records[0];
  std::set<std::string> seen;
  for (const std::string& field : header) {
    if (!IsField(field)) return InvalidField(field, "is no field of a row");
    if (!seen.insert(field).second) return InvalidField(field, "is there twice");
  }
  if (seen.count("prompt") == 0) return absl::InvalidArgumentError("the header has no column \"prompt\"");
  std::vector<Row> rows;
  for (size_t i = 1; i < records.size(); ++i) {
    Row row = EmptyRow(static_cast<int64_t>(i), defaults);
    if (records[i].size() != header.size()) {
      row.error = absl::InvalidArgumentError(
          absl::StrCat("the row has ", records[i].size(), " fields, but the header ", header.size()));
    }
    for (size_t j = 0; row.error.ok() && j < header.size(); ++j) {
      if (!records[i][j].empty()) row.error = SetField(header[j], records[i][j], &row);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

absl::StatusOr<InputFormat> ParseInputFormat(const std::string& name) {
  if (name == "txt") return InputFormat::kText;
  if (name == "jsonl") return InputFormat::kJsonLines;
  if (name == "csv") return InputFormat::kCsv;
  return InvalidField("--input-format", absl::StrCat("must be txt, jsonl or csv, not ", name));
}

absl::StatusOr<InputFormat> InputFormatOf(const std::string& path) {
  if (absl::EndsWithIgnoreCase(path, ".txt")) return InputFormat::kText;
  if (absl::EndsWithIgnoreCase(path, ".jsonl") || absl::EndsWithIgnoreCase(path, ".ndjson")) {
    return InputFormat::kJsonLines;
  }
  if (absl::EndsWithIgnoreCase(path, ".csv")) return InputFormat::kCsv;
  return InvalidField("--input-format", absl::StrCat("is needed: the name of ", path == "-" ? "standard input" : path,
                                                     " does not tell txt, jsonl or csv"));
}

std::vector<std::string> ParsePrompts(std::string_view text) {
  std::vector<std::string> prompts;
  ForEachLine(WithoutByteOrderMark(text), [&prompts](int64_t, std::string_view line) {
    if (line.find_first_not_of(" \t") != std::string_view::npos) prompts.emplace_back(line);
  });
  return prompts;
}

absl::StatusOr<std::vector<Row>> ParseRows(InputFormat format, std::string_view text, const Recipe& defaults) {
  text = WithoutByteOrderMark(text);
  switch (format) {
    case InputFormat::kText:
      return ParseText(text, defaults);
    case InputFormat::kJsonLines:
      return ParseJsonLines(text, defaults);
    case InputFormat::kCsv:
      return ParseCsvRows(text, defaults);
  }
  return absl::InternalError("unknown input format");
}

absl::StatusOr<std::vector<std::vector<std::string>>> ParseCsv(std::string_view text) {
  std::vector<std::vector<std::string>> records;
  std::vector<std::string> record;
  std::string field;
  int64_t line = 1;
  bool was_quoted = false;
  const auto end_record = [&] {
    const bool empty_line = record.empty() && field.empty() && !was_quoted;
    if (!empty_line) {
      record.push_back(std::move(field));
      records.push_back(std::move(record));
    }
    record.clear();
    field.clear();
    was_quoted = false;
    ++line;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' && field.empty() && !was_quoted) {
      was_quoted = true;
      const int64_t opened = line;
      for (++i; i < text.size(); ++i) {
        if (text[i] == '"' && i + 1 < text.size() && text[i + 1] == '"') {
          field.push_back('"');
          ++i;
        } else if (text[i] == '"') {
          break;
        } else {
          if (text[i] == '\n') ++line;
          field.push_back(text[i]);
        }
      }
      if (i == text.size())
        return absl::InvalidArgumentError(absl::StrCat("line ", opened, ": the quote is not closed"));
    } else if (c == ',') {
      record.push_back(std::move(field));
      field.clear();
      was_quoted = false;
    } else if (c == '\n') {
      end_record();
    } else if (c == '\r' && i + 1 < text.size() && text[i + 1] == '\n') {
      continue;
    } else if (was_quoted || c == '"') {
      return absl::InvalidArgumentError(absl::StrCat("line ", line, ": a quote in the middle of a field"));
    } else {
      field.push_back(c);
    }
  }
  if (!record.empty() || !field.empty() || was_quoted) end_record();
  return records;
}

}  // namespace turbofleet::cli
