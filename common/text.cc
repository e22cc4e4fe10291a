#include "common/text.h"

#include <array>
#include <cstdint>
#include <cstdio>

namespace turbofleet {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

uint8_t ByteAt(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

size_t Utf8SequenceLength(std::string_view text) {
  if (text.empty()) return 0;
  const uint8_t first = ByteAt(text, 0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  // C0 and C1 would be overlong, bytes above F4 are beyond Unicode, 80 to BF start nothing.
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(ByteAt(text, i))) return 0;
  }
  const uint8_t second = ByteAt(text, 1);
  if (first == 0xE0 && second < 0xA0) return 0;  // Overlong.
  if (first == 0xED && second > 0x9F) return 0;  // Surrogates.
  if (first == 0xF0 && second < 0x90) return 0;  // Overlong.
  if (first == 0xF4 && second > 0x8F) return 0;  // Beyond U+10FFFF.
  return length;
}

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    if (length == 0) {
      result.append(kReplacement);
      text.remove_prefix(1);
    } else {
      result.append(text.substr(0, length));
      text.remove_prefix(length);
    }
  }
  return result;
}

std::string TruncateUtf8(std::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return std::string(text);
  size_t end = bytes_max;
  while (end > 0 && IsContinuation(ByteAt(text, end))) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::string JsonQuote(std::string_view text) {
  std::string result = "\"";
  result.reserve(text.size() + 2);
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    const uint8_t first = ByteAt(text, 0);
    if (length == 0) {
      result.append(kReplacement);
    } else if (first == '"' || first == '\\') {
      result.push_back('\\');
      result.push_back(static_cast<char>(first));
    } else if (first == '\n') {
      result.append("\\n");
    } else if (first < 0x20 || first == 0x7F) {
      std::array<char, 8> escape;
      std::snprintf(escape.data(), escape.size(), "\\u%04x", first);
      result.append(escape.data());
    } else if (length == 2 && first == 0xC2 && ByteAt(text, 1) < 0xA0) {
      // The second set of control characters, U+0080 to U+009F: terminals obey them too.
      std::array<char, 8> escape;
      std::snprintf(escape.data(), escape.size(), "\\u%04x", ByteAt(text, 1));
      result.append(escape.data());
    } else {
      result.append(text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  result.push_back('"');
  return result;
}

}  // namespace turbofleet
