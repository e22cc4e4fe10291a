#include "common/images/png_writer.h"

#include <zlib.h>
#if TURBOFLEET_HAVE_ISAL
#include <isa-l/igzip_lib.h>
#endif

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/images/exif.h"

namespace turbofleet {
namespace {

constexpr uint8_t kUpFilter = 2;

void Append32(std::string* out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

void AppendChunk(std::string* out, std::string_view type, std::string_view data) {
  Append32(out, static_cast<uint32_t>(data.size()));
  const size_t start = out->size();
  out->append(type).append(data);
  const auto* bytes = reinterpret_cast<const Bytef*>(out->data() + start);
  Append32(out, static_cast<uint32_t>(crc32(0, bytes, static_cast<uInt>(out->size() - start))));
}

std::vector<uint8_t> FilterUp(const RgbImage& image) {
  const size_t stride = static_cast<size_t>(image.width) * 3;
  std::vector<uint8_t> rows((stride + 1) * image.height);
  const std::vector<uint8_t> zeros(stride);
  const uint8_t* above = zeros.data();
  const uint8_t* row = image.pixels.data();
  uint8_t* out = rows.data();
  for (int y = 0; y < image.height; ++y, above = row, row += stride) {
    *out++ = kUpFilter;
    for (size_t x = 0; x < stride; ++x) *out++ = static_cast<uint8_t>(row[x] - above[x]);
  }
  return rows;
}

#if TURBOFLEET_HAVE_ISAL
absl::StatusOr<std::string> Deflate(std::vector<uint8_t> data) {
  std::vector<uint8_t> work(ISAL_DEF_LVL1_DEFAULT);
  // What does not compress is stored, at a few bytes per block.
  std::string out(data.size() + data.size() / 1000 + 1024, '\0');
  isal_zstream stream;
  isal_deflate_stateless_init(&stream);
  stream.level = 1;
  stream.level_buf = work.data();
  stream.level_buf_size = static_cast<uint32_t>(work.size());
  stream.gzip_flag = IGZIP_ZLIB;
  stream.flush = NO_FLUSH;
  stream.end_of_stream = 1;
  stream.next_in = data.data();
  stream.avail_in = static_cast<uint32_t>(data.size());
  stream.next_out = reinterpret_cast<uint8_t*>(out.data());
  stream.avail_out = static_cast<uint32_t>(out.size());
  if (isal_deflate_stateless(&stream) != COMP_OK || stream.avail_in != 0) {
    return absl::InternalError("PNG: the picture could not be compressed");
  }
  out.resize(stream.total_out);
  return out;
}
#else
absl::StatusOr<std::string> Deflate(std::vector<uint8_t> data) {
  uLongf size = compressBound(data.size());
  std::string out(size, '\0');
  if (compress2(reinterpret_cast<Bytef*>(out.data()), &size, data.data(), data.size(), Z_BEST_SPEED) != Z_OK) {
    return absl::InternalError("PNG: the picture could not be compressed");
  }
  out.resize(size);
  return out;
}
#endif

// tEXt holds Latin-1, which every reader knows; anything beyond goes into iTXt, which holds UTF-8.
void AppendText(std::string* out, const std::string& keyword, const std::string& text) {
  using std::string_view_literals::operator""sv;
  const std::u32string points = CodePoints(text);
  const bool latin1 = std::all_of(points.begin(), points.end(), [](char32_t point) {
    return point == U'\n' || (point >= 0x20 && point < 0x7f) || (point >= 0xa0 && point < 0x100);
  });
  if (!latin1) {
    AppendChunk(out, "iTXt", keyword + std::string("\0\0\0\0\0"sv) + text);
    return;
  }
  std::string bytes;
  for (const char32_t point : points) bytes.push_back(static_cast<char>(point));
  AppendChunk(out, "tEXt", keyword + '\0' + bytes);
}

}  // namespace

absl::StatusOr<std::string> WritePng(const RgbImage& image, const std::string& parameters) {
  using std::string_view_literals::operator""sv;
  std::string header;
  Append32(&header, static_cast<uint32_t>(image.width));
  Append32(&header, static_cast<uint32_t>(image.height));
  header += "\x08\x02\0\0\0"sv;  // 8 bits, RGB, deflate, adaptive filters, not interlaced.
  absl::StatusOr<std::string> pixels = Deflate(FilterUp(image));
  if (!pixels.ok()) return pixels.status();

  std::string out("\x89PNG\r\n\x1a\n");
  out.reserve(pixels->size() + parameters.size() + 256);
  AppendChunk(&out, "IHDR", header);
  if (!parameters.empty()) AppendText(&out, "parameters", parameters);
  AppendChunk(&out, "IDAT", *pixels);
  AppendChunk(&out, "IEND", "");
  return out;
}

}  // namespace turbofleet
