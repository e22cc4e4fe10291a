#include "client/cli/picture_file.h"

#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/cli/recipe.h"
#include "common/images/codec.h"
#include "common/status.h"

namespace turbofleet::cli {

absl::StatusOr<RgbImage> ReadPicture(const std::string& folder, const ManifestEntry& entry) {
  const DecodeLimits limits;
  TURBOFLEET_ASSIGN_OR_RETURN(std::string bytes,
                              ReadFile((std::filesystem::path(folder) / entry.path).string(), limits.bytes_max));
  RgbImage image = {.width = entry.width, .height = entry.height, .pixels = {}};
  if (entry.format == "raw") {
    image.pixels.assign(bytes.begin(), bytes.end());
  } else {
    absl::StatusOr<RgbImage> decoded = DecodeImage(bytes, limits);
    if (!decoded.ok()) return Annotate(decoded.status(), entry.path);
    image = *std::move(decoded);
  }
  if (image.width != entry.width || image.height != entry.height ||
      image.pixels.size() != static_cast<size_t>(entry.width) * static_cast<size_t>(entry.height) * 3) {
    return absl::InvalidArgumentError(absl::StrCat(entry.path, ": is not of the size that the manifest says"));
  }
  return image;
}

}  // namespace turbofleet::cli
