// Resampling.
#pragma once

#include "common/images/rgb_image.h"

namespace turbofleet {

// Resizes with the Lanczos filter of three lobes, in the fixed-point arithmetic of PIL's Image.resize and so to the
// same bytes, because diffusers prepares start pictures with it. REQUIRES: width, height > 0; a picture that is not
// empty.
RgbImage ResizeLanczos(const RgbImage& image, int width, int height);

}  // namespace turbofleet
