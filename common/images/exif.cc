#include "common/images/exif.h"

#include <cstdint>

#include "common/text.h"

namespace turbofleet {
namespace {

// Tags and types of the EXIF standard (CIPA DC-008).
constexpr uint16_t kExifPointerTag = 0x8769;
constexpr uint16_t kUserCommentTag = 0x9286;
constexpr uint16_t kLongType = 4;
constexpr uint16_t kUndefinedType = 7;
constexpr uint32_t kHeaderBytes = 8;
constexpr uint32_t kOneEntryIfdBytes = 2 + 12 + 4;

void Append16(std::string* out, uint32_t value) {
  out->push_back(static_cast<char>(value >> 8));
  out->push_back(static_cast<char>(value));
}

void Append32(std::string* out, uint32_t value) {
  Append16(out, value >> 16);
  Append16(out, value & 0xffff);
}

// An image file directory with one entry, and no directory after it.
void AppendDirectory(std::string* out, uint16_t tag, uint16_t type, uint32_t count, uint32_t value) {
  Append16(out, 1);
  Append16(out, tag);
  Append16(out, type);
  Append32(out, count);
  Append32(out, value);
  Append32(out, 0);
}

std::string Utf16BigEndian(std::string_view text) {
  std::string out;
  for (const char32_t point : CodePoints(text)) {
    if (point < 0x10000) {
      Append16(&out, point);
    } else {
      Append16(&out, 0xd800 + ((point - 0x10000) >> 10));
      Append16(&out, 0xdc00 + ((point - 0x10000) & 0x3ff));
    }
  }
  return out;
}

}  // namespace

std::u32string CodePoints(std::string_view text) {
  std::u32string points;
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    if (length == 0) break;
    const auto lead = static_cast<uint8_t>(text[0]);
    char32_t point = length == 1 ? lead : lead & (0x7f >> length);
    for (size_t i = 1; i < length; ++i) point = (point << 6) | (static_cast<uint8_t>(text[i]) & 0x3f);
    points.push_back(point);
    text.remove_prefix(length);
  }
  return points;
}

std::string ExifWithUserComment(std::string_view text) {
  using std::string_view_literals::operator""sv;
  const std::string comment = std::string("UNICODE\0"sv) + Utf16BigEndian(text);
  std::string out("MM\0*"sv);
  Append32(&out, kHeaderBytes);
  AppendDirectory(&out, kExifPointerTag, kLongType, 1, kHeaderBytes + kOneEntryIfdBytes);
  AppendDirectory(&out, kUserCommentTag, kUndefinedType, static_cast<uint32_t>(comment.size()),
                  kHeaderBytes + 2 * kOneEntryIfdBytes);
  return out + comment;
}

}  // namespace turbofleet
