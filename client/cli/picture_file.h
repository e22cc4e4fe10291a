// Pictures that a manifest names.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/manifest.h"
#include "common/images/rgb_image.h"

namespace turbofleet::cli {

// The pixels of an entry's file. `folder` is the manifest's. NOT_FOUND: the file is missing. INVALID_ARGUMENT: it is
// damaged, or of another size than the entry says.
absl::StatusOr<RgbImage> ReadPicture(const std::string& folder, const ManifestEntry& entry);

}  // namespace turbofleet::cli
