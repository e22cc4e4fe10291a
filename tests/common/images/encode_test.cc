#include <zlib.h>

#include <cmath>
#include <map>
#include <optional>

#include "common/images/codec.h"
#include "tests/common/images/goldens.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using std::string_literals::operator""s;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr ImageFormat kFiles[] = {ImageFormat::kPng, ImageFormat::kJpeg, ImageFormat::kWebp};

std::string Encode(const RgbImage& image, const EncodeOptions& options) {
  const absl::StatusOr<std::string> file = EncodeImage(image, options);
  EXPECT_THAT(file, IsOk());
  return file.value_or("");
}

double Psnr(const RgbImage& a, const RgbImage& b) {
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    const double difference = static_cast<double>(a.pixels[i]) - b.pixels[i];
    sum += difference * difference;
  }
  return 10 * std::log10(255.0 * 255.0 / (sum / static_cast<double>(a.pixels.size())));
}

uint32_t BigEndian32(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes.at(at + i));
  return value;
}

struct Chunk {
  std::string type;
  std::string data;
};

// The chunks of a PNG file, whose checksums must be right.
std::vector<Chunk> ChunksOf(const std::string& png) {
  std::vector<Chunk> chunks;
  for (size_t at = 8; at < png.size();) {
    const uint32_t size = BigEndian32(png, at);
    const std::string body = png.substr(at + 4, size + 4);
    EXPECT_EQ(crc32(0, reinterpret_cast<const Bytef*>(body.data()), size + 4), BigEndian32(png, at + 8 + size));
    chunks.push_back({body.substr(0, 4), body.substr(4)});
    at += 12 + size;
  }
  return chunks;
}

// The EXIF block of a JPEG or WebP file.
std::optional<std::string> ExifOf(const std::string& file, ImageFormat format) {
  if (format == ImageFormat::kJpeg) {
    const size_t start = file.find("\xff\xe1"s);
    if (start == std::string::npos || file.compare(start + 4, 6, "Exif\0\0"s) != 0) return std::nullopt;
    const size_t length = static_cast<uint8_t>(file[start + 2]) << 8 | static_cast<uint8_t>(file[start + 3]);
    return file.substr(start + 10, length - 8);
  }
  for (size_t at = 12; at + 8 <= file.size();) {
    uint32_t size = 0;
    for (size_t i = 4; i-- > 0;) size = size << 8 | static_cast<uint8_t>(file[at + 4 + i]);
    if (file.compare(at, 4, "EXIF") == 0) return file.substr(at + 8, size);
    at += 8 + size + size % 2;
  }
  return std::nullopt;
}

// The UserComment of a TIFF block that has an EXIF directory with that one entry; checks every offset on the way.
std::string UserCommentOf(const std::string& tiff) {
  EXPECT_EQ(tiff.substr(0, 8), "MM\0*\0\0\0\x08"s);
  EXPECT_EQ(tiff.substr(8, 10), "\0\x01\x87\x69\0\x04\0\0\0\x01"s);  // One entry: the EXIF directory's offset.
  const uint32_t directory = BigEndian32(tiff, 18);
  EXPECT_EQ(BigEndian32(tiff, 22), 0u);                           // No directory after it.
  EXPECT_EQ(tiff.substr(directory, 6), "\0\x01\x92\x86\0\x07"s);  // One entry: UserComment, undefined type.
  const uint32_t size = BigEndian32(tiff, directory + 6), offset = BigEndian32(tiff, directory + 10);
  EXPECT_EQ(offset + size, tiff.size());
  return tiff.substr(offset, size);
}

TEST(EncodeTest, PngAndRawKeepEveryPixel) {
  for (const RgbImage& image : {NoiseImage(1, 1, 1), NoiseImage(67, 3, 2), NoiseImage(3, 67, 3), SmoothImage(512, 512),
                                NoiseImage(1024, 1024, 4)}) {
    const std::string raw = Encode(image, {.format = ImageFormat::kRaw});
    EXPECT_EQ(std::vector<uint8_t>(raw.begin(), raw.end()), image.pixels);
    const absl::StatusOr<RgbImage> again = DecodeImage(Encode(image, {}), {});
    TURBOFLEET_ASSERT_OK(again);
    EXPECT_EQ(again->width, image.width);
    EXPECT_EQ(again->height, image.height);
    EXPECT_EQ(again->pixels, image.pixels) << image.width << " x " << image.height;
    EXPECT_EQ(PixelDigest(*again), PixelDigest(image));
  }
}

// Rows, not columns; red first: a picture whose every pixel says where it is.
TEST(EncodeTest, PixelsStayWhereTheyAre) {
  RgbImage image = {.width = 3, .height = 2, .pixels = {}};
  for (uint8_t i = 0; i < 18; ++i) image.pixels.push_back(i);
  EXPECT_EQ(Encode(image, {.format = ImageFormat::kRaw}),
            "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11"s);
}

TEST(EncodeTest, JpegAndWebpStayCloseAndQualityMatters) {
  const RgbImage image = SmoothImage(256, 192);
  for (const ImageFormat format : {ImageFormat::kJpeg, ImageFormat::kWebp}) {
    size_t size_before = 0;
    double psnr_before = 0;
    for (const int quality : {10, 60, 95}) {
      const std::string file = Encode(image, {.format = format, .quality = quality});
      const absl::StatusOr<RgbImage> again = DecodeImage(file, {});
      TURBOFLEET_ASSERT_OK(again);
      ASSERT_EQ(again->pixels.size(), image.pixels.size());
      const double psnr = Psnr(*again, image);
      EXPECT_GT(psnr, psnr_before) << quality;
      EXPECT_GT(file.size(), size_before) << quality;
      size_before = file.size();
      psnr_before = psnr;
    }
    EXPECT_GT(psnr_before, 40.0);  // At quality 95.
  }
}

// From quality 90 on colours keep their full resolution: red stripes of one pixel would lose their colour otherwise.
TEST(EncodeTest, HighJpegQualityKeepsThinColours) {
  RgbImage stripes = {.width = 64, .height = 64, .pixels = {}};
  for (int i = 0; i < 64 * 64; ++i) {
    const bool red = i % 2 == 0;
    stripes.pixels.insert(stripes.pixels.end(),
                          {static_cast<uint8_t>(red ? 255 : 0), 0, static_cast<uint8_t>(red ? 0 : 255)});
  }
  const auto psnr_at = [&](int quality) {
    return Psnr(*DecodeImage(Encode(stripes, {.format = ImageFormat::kJpeg, .quality = quality}), {}), stripes);
  };
  EXPECT_GT(psnr_at(90), 30.0);
  EXPECT_LT(psnr_at(89), 15.0);
}

TEST(EncodeTest, TheSameInputGivesTheSameBytes) {
  const RgbImage image = NoiseImage(64, 64, 9);
  for (const ImageFormat format : kFiles) {
    const EncodeOptions options{.format = format, .quality = 80, .parameters = "a fox"};
    EXPECT_EQ(Encode(image, options), Encode(image, options));
  }
}

TEST(EncodeTest, PngHasOnlyTheChunksThatItNeeds) {
  const std::string file = Encode(NoiseImage(5, 4, 1), {});
  EXPECT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n"s);
  const std::vector<Chunk> chunks = ChunksOf(file);
  ASSERT_EQ(chunks.size(), 3u);
  EXPECT_EQ(chunks[0].type, "IHDR");
  EXPECT_EQ(chunks[0].data, "\0\0\0\x05\0\0\0\x04\x08\x02\0\0\0"s);
  EXPECT_EQ(chunks[1].type, "IDAT");
  EXPECT_EQ(chunks[2].type, "IEND");
}

// Latin-1 in the chunk that every reader knows; UTF-8 where Latin-1 does not reach, so that nothing is lost.
TEST(EncodeTest, PngParametersAreATextChunk) {
  const RgbImage image = NoiseImage(5, 4, 1);
  const auto text_chunk = [&](const std::string& parameters) {
    return ChunksOf(Encode(image, {.parameters = parameters})).at(1);
  };
  EXPECT_EQ(text_chunk("a fox\nSteps: 1").type, "tEXt");
  EXPECT_EQ(text_chunk("a fox\nSteps: 1").data, "parameters\0a fox\nSteps: 1"s);
  EXPECT_EQ(text_chunk("caf\xc3\xa9").type, "tEXt");
  EXPECT_EQ(text_chunk("caf\xc3\xa9").data, "parameters\0caf\xe9"s);
  for (const std::string beyond : {"\xe7\x8b\x90", "\xf0\x9f\xa6\x8a", "tab\there", "\xc2\x85"}) {
    EXPECT_EQ(text_chunk(beyond).type, "iTXt") << beyond;
    EXPECT_EQ(text_chunk(beyond).data, "parameters\0\0\0\0\0"s + beyond);
  }
}

TEST(EncodeTest, JpegAndWebpParametersAreTheExifUserComment) {
  for (const ImageFormat format : {ImageFormat::kJpeg, ImageFormat::kWebp}) {
    for (const RgbImage& image : {NoiseImage(5, 4, 1), SmoothImage(64, 64)}) {
      // A letter, an e with acute, a smile as a surrogate pair.
      const std::string file = Encode(image, {.format = format, .parameters = "a\xc3\xa9\xf0\x9f\x98\x8a"});
      const std::optional<std::string> exif = ExifOf(file, format);
      ASSERT_TRUE(exif.has_value());
      EXPECT_EQ(UserCommentOf(*exif), "UNICODE\0\0a\0\xe9\xd8\x3d\xde\x0a"s);
      EXPECT_FALSE(ExifOf(Encode(image, {.format = format}), format).has_value());
    }
  }
}

TEST(EncodeTest, ParametersDoNotChangeThePixels) {
  const RgbImage image = SmoothImage(64, 48);
  for (const ImageFormat format : kFiles) {
    const absl::StatusOr<RgbImage> without = DecodeImage(Encode(image, {.format = format}), {});
    const absl::StatusOr<RgbImage> with =
        DecodeImage(Encode(image, {.format = format, .parameters = std::string(30'000, 'x')}), {});
    TURBOFLEET_ASSERT_OK(without);
    TURBOFLEET_ASSERT_OK(with);
    EXPECT_EQ(with->pixels, without->pixels);
  }
}

TEST(EncodeTest, WrongOptionsAreNamed) {
  const RgbImage image = NoiseImage(8, 8, 1);
  const auto refused = [&](const EncodeOptions& options, const std::string& field) {
    EXPECT_THAT(EncodeImage(image, options), StatusIs(kInvalid, HasSubstr(field)));
  };
  refused({.format = ImageFormat::kJpeg, .quality = 0}, "quality");
  refused({.format = ImageFormat::kWebp, .quality = 101}, "quality");
  refused({.parameters = std::string(30'001, 'x')}, "parameters");
  refused({.parameters = "\xff"}, "parameters");
  refused({.format = ImageFormat::kRaw, .parameters = "x"}, "parameters");
  refused({.format = static_cast<ImageFormat>(99)}, "format");
}

TEST(EncodeTest, PicturesThatAreNoneAreRefused) {
  for (RgbImage image :
       {RgbImage{}, RgbImage{.width = 0, .height = 8, .pixels = {}}, RgbImage{.width = -8, .height = 8, .pixels = {}},
        RgbImage{.width = 16'384, .height = 1, .pixels = std::vector<uint8_t>(16'384 * 3)},
        RgbImage{.width = 8, .height = 8, .pixels = std::vector<uint8_t>(8 * 8 * 3 - 1)},
        RgbImage{.width = 8, .height = 8, .pixels = std::vector<uint8_t>(8 * 8 * 4)}}) {
    for (const ImageFormat format : kFiles) EXPECT_THAT(EncodeImage(image, {.format = format}), StatusIs(kInvalid));
    EXPECT_THAT(EncodeImage(image, {.format = ImageFormat::kRaw}), StatusIs(kInvalid));
  }
  TURBOFLEET_EXPECT_OK(EncodeImage({.width = 16'383, .height = 1, .pixels = std::vector<uint8_t>(16'383 * 3)},
                                   {.format = ImageFormat::kWebp}));
}

// By `printf 'abc' | sha256sum`, of the pixel "abc".
TEST(PixelDigestTest, IsTheSha256OfTheBytes) {
  EXPECT_EQ(PixelDigest({.width = 1, .height = 1, .pixels = {'a', 'b', 'c'}}),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace turbofleet
