#include "common/images/resize.h"

#include "gmock/gmock.h"
#include "tests/common/images/goldens.h"

namespace turbofleet {
namespace {

using ::testing::Each;

// The same bytes as PIL's Image.resize(..., LANCZOS), which diffusers prepares start pictures with.
TEST(ResizeTest, BytesAreThoseOfPil) {
  const nlohmann::json goldens = ReadGoldens()["resize"];
  ASSERT_GE(goldens.size(), 12u);
  for (const nlohmann::json& golden : goldens) {
    const int width = golden["from"][0], height = golden["from"][1];
    const RgbImage image = NoiseImage(width, height, static_cast<uint32_t>(width * 1000 + height));
    const RgbImage resized = ResizeLanczos(image, golden["to"][0], golden["to"][1]);
    EXPECT_EQ(resized.width, golden["to"][0]);
    EXPECT_EQ(resized.height, golden["to"][1]);
    EXPECT_EQ(PixelDigest(resized), golden["sha256"]) << golden.dump();
  }
}

TEST(ResizeTest, OneColourStaysThatColour) {
  for (const uint8_t value : {0, 1, 128, 255}) {
    const RgbImage flat = {.width = 50, .height = 30, .pixels = std::vector<uint8_t>(50 * 30 * 3, value)};
    for (const auto& [width, height] : {std::pair{7, 3}, {200, 200}, {50, 31}}) {
      const RgbImage resized = ResizeLanczos(flat, width, height);
      EXPECT_EQ(resized.pixels.size(), static_cast<size_t>(width) * height * 3);
      EXPECT_THAT(resized.pixels, Each(value));
    }
  }
}

}  // namespace
}  // namespace turbofleet
