#include "client/cli/contact_sheet.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/cli/manifest.h"
#include "client/cli/picture_file.h"
#include "client/cli/recipe.h"
#include "common/images/codec.h"
#include "common/images/resize.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

constexpr int64_t kShownMax = 1024;
constexpr int kCellMax = 256;
constexpr int kSheetMax = 4096;
constexpr size_t kManifestBytesMax = size_t{1} << 30;
constexpr uint8_t kBackground = 255;

// The largest size of the same proportions that fits into the box; never larger than the picture.
std::pair<int, int> FitInto(int width, int height, int box_width, int box_height) {
  const double scale =
      std::min({1.0, static_cast<double>(box_width) / width, static_cast<double>(box_height) / height});
  return {std::max(1, static_cast<int>(width * scale)), std::max(1, static_cast<int>(height * scale))};
}

// Puts a picture into the middle of its cell.
void Paste(const RgbImage& picture, int64_t position, const SheetLayout& layout, RgbImage* sheet) {
  const int column = static_cast<int>(position % layout.columns), row = static_cast<int>(position / layout.columns);
  const int left = layout.gap + column * (layout.cell_width + layout.gap) + (layout.cell_width - picture.width) / 2;
  const int top = layout.gap + row * (layout.cell_height + layout.gap) + (layout.cell_height - picture.height) / 2;
  for (int y = 0; y < picture.height; ++y) {
    const auto from = picture.pixels.begin() + static_cast<std::ptrdiff_t>(y) * picture.width * 3;
    const auto to = sheet->pixels.begin() + (static_cast<std::ptrdiff_t>(top + y) * sheet->width + left) * 3;
    std::copy(from, from + static_cast<std::ptrdiff_t>(picture.width) * 3, to);
  }
}

absl::Status ReplaceFile(const std::string& path, const std::string& content) {
  const std::string part = absl::StrCat(path, ".part");
  std::ofstream stream(part, std::ios::binary | std::ios::trunc);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
  stream.close();
  std::error_code error;
  if (stream) std::filesystem::rename(part, path, error);
  if (stream && !error) return absl::OkStatus();
  std::filesystem::remove(part, error);
  return absl::UnknownError(absl::StrCat("cannot write the contact sheet ", path));
}

}  // namespace

SheetLayout LayOutSheet(int64_t count, int width, int height) {
  SheetLayout layout;
  layout.shown = std::min(count, kShownMax);
  std::tie(layout.cell_width, layout.cell_height) = FitInto(width, height, kCellMax, kCellMax);
  const double square = std::sqrt(static_cast<double>(layout.shown) * layout.cell_height / layout.cell_width);
  layout.columns = std::clamp(static_cast<int>(std::lround(square)), 1, static_cast<int>(layout.shown));
  layout.rows = static_cast<int>((layout.shown + layout.columns - 1) / layout.columns);
  const int column_width = kSheetMax / layout.columns - layout.gap, row_height = kSheetMax / layout.rows - layout.gap;
  std::tie(layout.cell_width, layout.cell_height) =
      FitInto(layout.cell_width, layout.cell_height, std::max(1, column_width), std::max(1, row_height));
  return layout;
}

absl::StatusOr<SheetSummary> WriteContactSheet(const std::string& manifest_path, const std::string& file) {
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string text, ReadFile(manifest_path, kManifestBytesMax));
  TURBOFLEET_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(text));
  std::vector<ManifestEntry>& entries = manifest.entries;
  if (entries.empty()) return absl::NotFoundError(absl::StrCat(manifest_path, " names no picture"));
  std::stable_sort(entries.begin(), entries.end(),
                   [](const ManifestEntry& a, const ManifestEntry& b) { return a.index < b.index; });
  int width = 1, height = 1;
  for (const ManifestEntry& entry : entries) {
    width = std::max(width, entry.width);
    height = std::max(height, entry.height);
  }
  const auto count = static_cast<int64_t>(entries.size());
  const SheetLayout layout = LayOutSheet(count, width, height);

  RgbImage sheet = {.width = layout.width(), .height = layout.height(), .pixels = {}};
  sheet.pixels.assign(static_cast<size_t>(sheet.width) * sheet.height * 3, kBackground);
  const std::string folder = std::filesystem::path(manifest_path).parent_path().string();
  for (int64_t i = 0; i < layout.shown; ++i) {
    const absl::StatusOr<RgbImage> picture = ReadPicture(folder, entries[static_cast<size_t>(i)]);
    if (!picture.ok()) continue;
    const auto [w, h] = FitInto(picture->width, picture->height, layout.cell_width, layout.cell_height);
    Paste(ResizeLanczos(*picture, w, h), i, layout, &sheet);
  }
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string png,
                              EncodeImage(sheet, {.format = ImageFormat::kPng, .quality = 95, .parameters = {}}));
  TURBOFLEET_RETURN_IF_ERROR(ReplaceFile(file, png));
  return SheetSummary{.shown = layout.shown, .left_out = count - layout.shown};
}

}  // namespace turbofleet::cli
