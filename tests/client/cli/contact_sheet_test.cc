#include "client/cli/contact_sheet.h"

#include "common/images/codec.h"
#include "nlohmann/json.hpp"
#include "tests/client/cli/entries.h"
#include "tests/client/cli/temporary_folder.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

TEST(LayOutSheetTest, IsAboutAsWideAsHighAndNeverTooLarge) {
  for (const int64_t count : {1, 2, 3, 7, 24, 100, 1000, 1024, 1025, 1'000'000}) {
    for (const auto& [width, height] : {std::pair{64, 64}, {1024, 1024}, {1024, 64}, {64, 1024}, {512, 768}, {1, 1}}) {
      const SheetLayout layout = LayOutSheet(count, width, height);
      SCOPED_TRACE(std::to_string(count) + " of " + std::to_string(width) + " x " + std::to_string(height));
      EXPECT_EQ(layout.shown, std::min<int64_t>(count, 1024));
      EXPECT_GE(int64_t{layout.columns} * layout.rows, layout.shown);
      EXPECT_LT(int64_t{layout.columns} * (layout.rows - 1), layout.shown);
      EXPECT_LE(layout.cell_width, std::min(width, 256));
      EXPECT_LE(layout.cell_height, std::min(height, 256));
      EXPECT_GE(layout.cell_width, 1);
      EXPECT_GE(layout.cell_height, 1);
      EXPECT_LE(layout.width(), 4096 + layout.gap);
      EXPECT_LE(layout.height(), 4096 + layout.gap);
    }
  }
  const SheetLayout sixteen = LayOutSheet(16, 128, 128);
  EXPECT_EQ(sixteen.columns, 4);
  EXPECT_EQ(sixteen.rows, 4);
}

class ContactSheetTest : public ::testing::Test {
 protected:
  // A picture of one colour with its line in the manifest.
  void Add(int64_t index, uint8_t value, int width = 64, int height = 64) {
    RgbImage image = {.width = width, .height = height, .pixels = {}};
    image.pixels.assign(static_cast<size_t>(width) * height * 3, value);
    ManifestEntry entry = Entry(index);
    entry.width = width;
    entry.height = height;
    folder_.Write(entry.path, *EncodeImage(image, {}));
    manifest_ += ToJson(entry).dump() + "\n";
    folder_.Write("manifest.jsonl", manifest_);
  }

  RgbImage Sheet() { return DecodeImage(folder_.Read("sheet.png"), {}).value_or(RgbImage()); }
  static uint8_t At(const RgbImage& sheet, int x, int y) {
    return sheet.pixels.at((static_cast<size_t>(y) * sheet.width + x) * 3);
  }
  absl::StatusOr<SheetSummary> Write() { return WriteContactSheet(folder_ / "manifest.jsonl", folder_ / "sheet.png"); }

  TemporaryFolder folder_;
  std::string manifest_;
};

TEST_F(ContactSheetTest, PicturesStandInTheOrderOfTheirIndex) {
  for (const int index : {3, 0, 2, 1}) Add(index, static_cast<uint8_t>(10 * index));
  const auto summary = Write();
  TURBOFLEET_ASSERT_OK(summary);
  EXPECT_EQ(summary->shown, 4);
  EXPECT_EQ(summary->left_out, 0);
  const RgbImage sheet = Sheet();
  ASSERT_EQ(sheet.width, 4 + 2 * 68);
  ASSERT_EQ(sheet.height, 4 + 2 * 68);
  EXPECT_EQ(At(sheet, 0, 0), 255);  // Between and around the pictures.
  EXPECT_EQ(At(sheet, 4 + 64, 40), 255);
  EXPECT_EQ(At(sheet, 4, 4), 0);
  EXPECT_EQ(At(sheet, 4 + 68, 4), 10);
  EXPECT_EQ(At(sheet, 4, 4 + 68), 20);
  EXPECT_EQ(At(sheet, 4 + 68 + 63, 4 + 68 + 63), 30);
}

TEST_F(ContactSheetTest, SmallerPicturesStandInTheMiddleOfTheirCell) {
  Add(0, 0, 64, 64);
  Add(1, 50, 64, 32);
  TURBOFLEET_ASSERT_OK(Write());
  const RgbImage sheet = Sheet();
  EXPECT_EQ(At(sheet, 4 + 32, 4 + 68 + 10), 255);  // Below the first.
  EXPECT_EQ(At(sheet, 4 + 32, 4 + 68 + 32), 50);
}

TEST_F(ContactSheetTest, APictureThatCannotBeReadLeavesItsCellEmpty) {
  Add(0, 0);
  Add(1, 10);
  Add(2, 20);
  folder_.Write("0.png", "damaged");
  std::filesystem::remove(folder_ / "1.png");
  TURBOFLEET_ASSERT_OK(Write());
  const RgbImage sheet = Sheet();
  EXPECT_EQ(At(sheet, 4 + 32, 4 + 32), 255);
  EXPECT_EQ(At(sheet, 4 + 68 + 32, 4 + 32), 255);
  EXPECT_EQ(At(sheet, 4 + 32, 4 + 68 + 32), 20);
}

TEST_F(ContactSheetTest, AnEarlierSheetIsReplacedAndNoPartIsLeft) {
  folder_.Write("sheet.png", "earlier");
  Add(0, 0);
  TURBOFLEET_ASSERT_OK(Write());
  EXPECT_EQ(Sheet().width, 72);
  EXPECT_THAT(folder_.Names(), ::testing::ElementsAre("0.png", "manifest.jsonl", "sheet.png"));
  EXPECT_FALSE(WriteContactSheet(folder_ / "manifest.jsonl", folder_ / "none/sheet.png").ok());
}

TEST_F(ContactSheetTest, NothingToShowIsAnError) {
  EXPECT_THAT(Write(), StatusIs(absl::StatusCode::kNotFound));
  folder_.Write("manifest.jsonl", "");
  EXPECT_THAT(Write(), StatusIs(absl::StatusCode::kNotFound));
  folder_.Write("manifest.jsonl", "damaged\n");
  EXPECT_THAT(Write(), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace turbofleet::cli
