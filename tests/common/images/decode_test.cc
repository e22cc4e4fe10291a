#include <zlib.h>

#include <algorithm>

#include "common/images/codec.h"
#include "tests/common/images/goldens.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::string BigEndian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(value >> shift));
  return bytes;
}

std::string Chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return BigEndian(static_cast<uint32_t>(data.size())) + body + BigEndian(static_cast<uint32_t>(crc));
}

std::string Deflate(const std::string& data) {
  uLongf size = compressBound(data.size());
  std::string out(size, '\0');
  compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(data.data()), data.size(), 9);
  return out.substr(0, size);
}

// A grey PNG file that says it is of this size, whose pixels unpack to `data`; `extra` are chunks before them.
std::string GrayPng(uint32_t width, uint32_t height, const std::string& data, const std::string& extra = "") {
  const std::string header = BigEndian(width) + BigEndian(height) + std::string("\x08\0\0\0\0", 5);
  return std::string("\x89PNG\r\n\x1a\n") + Chunk("IHDR", header) + extra + Chunk("IDAT", Deflate(data)) +
         Chunk("IEND", "");
}

std::string FlatGrayPng(uint32_t side, const std::string& extra = "") {
  return GrayPng(side, side, std::string(size_t{side} * (side + 1), '\0'), extra);
}

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  const nlohmann::json goldens = ReadGoldens();
  for (const auto& [name, digest] : goldens["decode"].items()) names.push_back(name);
  return names;
}

class DecodeGoldenTest : public ::testing::TestWithParam<std::string> {};

// Bit for bit what PIL's convert("RGB") reads, so that image-to-image starts from the pixels that diffusers starts
// from.
TEST_P(DecodeGoldenTest, PixelsAreThoseOfPil) {
  const nlohmann::json goldens = ReadGoldens();
  const absl::StatusOr<RgbImage> image = DecodeImage(ReadGoldenFile("files/" + GetParam()), {});
  TURBOFLEET_ASSERT_OK(image);
  EXPECT_EQ(image->width, goldens["width"]);
  EXPECT_EQ(image->height, goldens["height"]);
  EXPECT_EQ(PixelDigest(*image), goldens["decode"][GetParam()]);
}

// A file that ends early is no picture; half of one would be drawn over without a word. What the last bytes hold
// besides pixels (checksums, PNG's IEND) may be missing, so the cut is in the pixels.
TEST_P(DecodeGoldenTest, TruncatedFilesAreErrors) {
  const std::string file = ReadGoldenFile("files/" + GetParam());
  for (size_t size = 0; size < file.size() - 32; ++size) {
    ASSERT_THAT(DecodeImage(file.substr(0, size), {}), StatusIs(kInvalid)) << "of " << size << " bytes";
  }
}

// No claim but that it ends with a picture or an error; the sanitizers look at the rest.
TEST_P(DecodeGoldenTest, DamageNeverCrashes) {
  const std::string file = ReadGoldenFile("files/" + GetParam());
  for (size_t i = 0; i < file.size(); ++i) {
    for (const int bits : {0x01, 0x80, 0xff}) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ bits);
      const absl::StatusOr<RgbImage> image = DecodeImage(damaged, {});
      if (!image.ok()) {
        ASSERT_THAT(image, StatusIs(kInvalid));
        continue;
      }
      ASSERT_EQ(image->pixels.size(), static_cast<size_t>(image->width) * image->height * 3);
    }
  }
}

std::string TestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Files, DecodeGoldenTest, ::testing::ValuesIn(GoldenNames()), TestName);

TEST(DecodeTest, OtherKindsOfPicturesAreRefused) {
  const nlohmann::json goldens = ReadGoldens();
  ASSERT_GE(goldens["refused"].size(), 5u);
  for (const std::string name : goldens["refused"]) {
    EXPECT_THAT(DecodeImage(ReadGoldenFile("files/" + name), {}), StatusIs(kInvalid)) << name;
  }
  EXPECT_THAT(DecodeImage(ReadGoldenFile("files/animation.webp"), {}), StatusIs(kInvalid, HasSubstr("animation")));
}

TEST(DecodeTest, TheFirstBytesTellTheKind) {
  using std::string_view_literals::operator""sv;
  for (const std::string_view bytes :
       {""sv, "\x89PNG"sv, "\x89PNG\r\n\x1a\r"sv, "\xff\xd8"sv, "RIFF1234WEBM"sv, "RIFF"sv, "WEBP"sv, "GIF89a"sv,
        "BM"sv, "<svg xmlns='http://www.w3.org/2000/svg'/>"sv, "\0\0\0\0\0\0\0\0\0\0\0\0"sv}) {
    EXPECT_FALSE(LooksLikeImage(bytes)) << bytes;
    EXPECT_THAT(DecodeImage(bytes, {}), StatusIs(kInvalid, "not a PNG, JPEG or WebP file"));
  }
  for (const std::string name : {"rgb8.png", "baseline.jpg", "lossy.webp"}) {
    EXPECT_TRUE(LooksLikeImage(ReadGoldenFile("files/" + name))) << name;
  }
  // The start of a file is not a file.
  for (const std::string_view bytes : {"\x89PNG\r\n\x1a\n"sv, "\xff\xd8\xff"sv, "RIFF\4\0\0\0WEBP"sv}) {
    EXPECT_TRUE(LooksLikeImage(bytes));
    EXPECT_THAT(DecodeImage(bytes, {}), StatusIs(kInvalid));
  }
}

TEST(DecodeTest, EachLimitIsExact) {
  const std::string file = ReadGoldenFile("files/rgb8.png");  // 19 x 13.
  const DecodeLimits just{.bytes_max = file.size(), .pixels_max = 19 * 13, .side_max = 19};
  TURBOFLEET_EXPECT_OK(DecodeImage(file, just));
  DecodeLimits limits = just;
  --limits.bytes_max;
  EXPECT_THAT(DecodeImage(file, limits), StatusIs(kInvalid, HasSubstr("bytes, more than")));
  limits = just;
  --limits.pixels_max;
  EXPECT_THAT(DecodeImage(file, limits), StatusIs(kInvalid, HasSubstr("19 x 13 pixels are more than 246")));
  for (const std::string kind : {"rgb8.png", "baseline.jpg", "lossy.webp"}) {
    limits = {.side_max = 18};
    EXPECT_THAT(DecodeImage(ReadGoldenFile("files/" + kind), limits), StatusIs(kInvalid)) << kind;
    limits = {.pixels_max = 19 * 13 - 1};
    EXPECT_THAT(DecodeImage(ReadGoldenFile("files/" + kind), limits), StatusIs(kInvalid)) << kind;
  }
}

// 4,000 x 4,000 pixels of one colour in 16 KB: within the pixel limit, but no picture that anybody made by hand.
TEST(DecodeTest, DecompressionBombsAreRefusedByTheirRatio) {
  const std::string bomb = FlatGrayPng(4000);
  ASSERT_LT(bomb.size(), 50'000u);
  EXPECT_THAT(DecodeImage(bomb, {}), StatusIs(kInvalid, HasSubstr("decompression bomb")));
  // Plain pictures of an everyday size compress as well, and are fine.
  TURBOFLEET_EXPECT_OK(DecodeImage(FlatGrayPng(1024), {}));
  EXPECT_THAT(DecodeImage(FlatGrayPng(1032), {}), StatusIs(kInvalid, HasSubstr("decompression bomb")));
  TURBOFLEET_EXPECT_OK(DecodeImage(FlatGrayPng(1032), {.ratio_max = 1'000'000}));
}

// The header decides before anything is allocated: this file claims 12 GB of pixels.
TEST(DecodeTest, HugeDimensionsCostNothing) {
  for (const uint32_t side : {0u, 65'535u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    EXPECT_THAT(DecodeImage(GrayPng(side, side, "x"), {}), StatusIs(kInvalid)) << side;
    EXPECT_THAT(DecodeImage(GrayPng(side, 1, "x"), {}), StatusIs(kInvalid)) << side;
  }
}

// A text chunk that unpacks to 64 MB must not be unpacked just because it stands before the pixels.
TEST(DecodeTest, PackedTextIsNotUnpacked) {
  const std::string text = Chunk("zTXt", std::string("bomb\0\0", 6) + Deflate(std::string(64 << 20, ' ')));
  const absl::StatusOr<RgbImage> image = DecodeImage(FlatGrayPng(8, text), {});
  if (image.ok()) {
    EXPECT_EQ(image->width, 8);
  } else {
    EXPECT_THAT(image, StatusIs(kInvalid));
  }
}

TEST(DecodeTest, PixelsThatDoNotGoWithTheHeaderAreErrors) {
  EXPECT_THAT(DecodeImage(GrayPng(8, 8, std::string(8 * 9 - 1, '\0')), {}), StatusIs(kInvalid));
  EXPECT_THAT(DecodeImage(GrayPng(8, 8, std::string(8 * 9, '\x09')), {}), StatusIs(kInvalid));  // No such filter.
  std::string checksum = FlatGrayPng(8);
  checksum[8 + 8 + 13] ^= 1;
  EXPECT_THAT(DecodeImage(checksum, {}), StatusIs(kInvalid));
}

}  // namespace
}  // namespace turbofleet
