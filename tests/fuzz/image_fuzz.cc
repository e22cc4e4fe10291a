// Start pictures from anyone: pixels within the limits that survive our own files, or a refusal.
#include <string>
#include <string_view>

#include "common/images/codec.h"
#include "tests/fuzz/require.h"

using turbofleet::DecodeImage;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr turbofleet::DecodeLimits kLimits = {
      .bytes_max = 1 << 16, .pixels_max = 1 << 14, .side_max = 512, .ratio_max = 300, .ratio_free_pixels = 1 << 10};
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto image = DecodeImage(file, kLimits);
  if (!image.ok()) {
    TURBOFLEET_REQUIRE(absl::IsInvalidArgument(image.status()));
    return 0;
  }
  TURBOFLEET_REQUIRE(turbofleet::LooksLikeImage(file));
  TURBOFLEET_REQUIRE(image->width >= 1 && image->width <= kLimits.side_max);
  TURBOFLEET_REQUIRE(image->height >= 1 && image->height <= kLimits.side_max);
  const int64_t pixels = static_cast<int64_t>(image->width) * image->height;
  TURBOFLEET_REQUIRE(pixels <= kLimits.pixels_max);
  TURBOFLEET_REQUIRE(image->pixels.size() == static_cast<size_t>(pixels) * 3);

  const auto png = turbofleet::EncodeImage(*image, {});
  TURBOFLEET_REQUIRE(png.ok());
  const auto again = DecodeImage(*png, {});
  TURBOFLEET_REQUIRE(again.ok() && again->width == image->width && again->height == image->height);
  TURBOFLEET_REQUIRE(again->pixels == image->pixels);
  return 0;
}
