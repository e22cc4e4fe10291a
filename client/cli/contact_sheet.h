// All pictures of a folder on one.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace turbofleet::cli {

// How the pictures of a sheet are laid out, in pixels.
struct SheetLayout {
  int64_t shown = 0;
  int columns = 0;
  int rows = 0;
  int cell_width = 0;
  int cell_height = 0;
  int gap = 4;

  int width() const { return columns * (cell_width + gap) + gap; }
  int height() const { return rows * (cell_height + gap) + gap; }
};

// A layout for `count` pictures of at most `width` x `height`: about as wide as high, cells of at most 256 pixels a
// side and never larger than the pictures, the whole at most about 4,096 pixels a side. The first 1,024 pictures are
// shown. REQUIRES: all above 0.
SheetLayout LayOutSheet(int64_t count, int width, int height);

struct SheetSummary {
  int64_t shown = 0;
  int64_t left_out = 0;
};

// Writes a PNG of the manifest's pictures, by index, row by row. Replaces `file` as a whole. A picture whose file
// cannot be read leaves its cell empty. INVALID_ARGUMENT, NOT_FOUND: the manifest is damaged, missing or empty.
absl::StatusOr<SheetSummary> WriteContactSheet(const std::string& manifest_path, const std::string& file);

}  // namespace turbofleet::cli
