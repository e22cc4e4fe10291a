#include <turbojpeg.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/images/codec.h"
#include "common/images/exif.h"
#include "common/images/png_writer.h"
#include "common/sha256.h"
#include "common/status.h"
#include "common/text.h"

namespace turbofleet {
namespace {

constexpr int kSideMax = 16'383;  // WebP's limit; the others allow more.
constexpr size_t kParametersBytesMax = 30'000;
// From this quality on colours keep their full resolution: edges of saturated shapes are where halving it shows.
constexpr int kFullChromaQuality = 90;

absl::Status CheckEncode(const RgbImage& image, const EncodeOptions& options) {
  if (image.width < 1 || image.height < 1 || image.width > kSideMax || image.height > kSideMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("picture: ", image.width, " x ", image.height, " pixels cannot be encoded"));
  }
  if (image.pixels.size() != static_cast<size_t>(image.width) * image.height * 3) {
    return absl::InvalidArgumentError("picture: the number of bytes does not go with its size");
  }
  if (options.quality < 1 || options.quality > 100) {
    return absl::InvalidArgumentError(absl::StrCat("quality: ", options.quality, " is not from 1 to 100"));
  }
  if (options.parameters.size() > kParametersBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("parameters: more than ", kParametersBytesMax, " bytes"));
  }
  if (!IsValidUtf8(options.parameters)) return absl::InvalidArgumentError("parameters: not valid UTF-8");
  if (options.format == ImageFormat::kRaw && !options.parameters.empty()) {
    return absl::InvalidArgumentError("parameters: raw pixels have no room for them");
  }
  return absl::OkStatus();
}

// Puts the EXIF segment behind the JFIF one, where readers of either kind look for it.
std::string InsertExif(const std::string& jpeg, const std::string& exif) {
  using std::string_view_literals::operator""sv;
  const std::string payload = std::string("Exif\0\0"sv) + exif;
  const size_t length = payload.size() + 2;
  std::string segment("\xff\xe1");
  segment.push_back(static_cast<char>(length >> 8));
  segment.push_back(static_cast<char>(length));
  size_t position = 2;  // After the start marker.
  if (jpeg.size() > 6 && jpeg.compare(2, 2, "\xff\xe0") == 0) {
    position = 4 + (static_cast<uint8_t>(jpeg[4]) << 8 | static_cast<uint8_t>(jpeg[5]));
  }
  return jpeg.substr(0, position) + segment + payload + jpeg.substr(position);
}

absl::StatusOr<std::string> EncodeJpeg(const RgbImage& image, const EncodeOptions& options) {
  const std::unique_ptr<void, int (*)(tjhandle)> compressor(tjInitCompress(), tjDestroy);
  if (compressor == nullptr) return absl::ResourceExhaustedError("JPEG: no memory for a compressor");
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const int result =
      tjCompress2(compressor.get(), image.pixels.data(), image.width, 0, image.height, TJPF_RGB, &bytes, &size,
                  options.quality >= kFullChromaQuality ? TJSAMP_444 : TJSAMP_420, options.quality, TJFLAG_ACCURATEDCT);
  const std::unique_ptr<unsigned char, void (*)(unsigned char*)> owner(bytes, tjFree);
  if (result != 0) return absl::InternalError(absl::StrCat("JPEG: ", tjGetErrorStr2(compressor.get())));
  std::string jpeg(reinterpret_cast<const char*>(bytes), size);
  return options.parameters.empty() ? jpeg : InsertExif(jpeg, ExifWithUserComment(options.parameters));
}

absl::StatusOr<std::string> AddExifToWebp(const std::string& webp, const std::string& exif) {
  const WebPData picture = {.bytes = reinterpret_cast<const uint8_t*>(webp.data()), .size = webp.size()};
  const WebPData metadata = {.bytes = reinterpret_cast<const uint8_t*>(exif.data()), .size = exif.size()};
  const std::unique_ptr<WebPMux, void (*)(WebPMux*)> mux(WebPMuxCreate(&picture, /*copy_data=*/0), WebPMuxDelete);
  WebPData assembled = {.bytes = nullptr, .size = 0};
  if (mux == nullptr || WebPMuxSetChunk(mux.get(), "EXIF", &metadata, /*copy_data=*/0) != WEBP_MUX_OK ||
      WebPMuxAssemble(mux.get(), &assembled) != WEBP_MUX_OK) {
    return absl::InternalError("WebP: the parameters could not be added");
  }
  std::string out(reinterpret_cast<const char*>(assembled.bytes), assembled.size);
  WebPDataClear(&assembled);
  return out;
}

absl::StatusOr<std::string> EncodeWebp(const RgbImage& image, const EncodeOptions& options) {
  uint8_t* bytes = nullptr;
  const size_t size = WebPEncodeRGB(image.pixels.data(), image.width, image.height, image.width * 3,
                                    static_cast<float>(options.quality), &bytes);
  const std::unique_ptr<uint8_t, void (*)(void*)> owner(bytes, WebPFree);
  if (size == 0) return absl::InternalError("WebP: the picture could not be encoded");
  std::string webp(reinterpret_cast<const char*>(bytes), size);
  return options.parameters.empty() ? webp : AddExifToWebp(webp, ExifWithUserComment(options.parameters));
}

}  // namespace

std::string PixelDigest(const RgbImage& image) { return Sha256Hex(image.pixels.data(), image.pixels.size()); }

absl::StatusOr<std::string> EncodeImage(const RgbImage& image, const EncodeOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(CheckEncode(image, options));
  switch (options.format) {
    case ImageFormat::kPng:
      return WritePng(image, options.parameters);
    case ImageFormat::kJpeg:
      return EncodeJpeg(image, options);
    case ImageFormat::kWebp:
      return EncodeWebp(image, options);
    case ImageFormat::kRaw:
      return std::string(image.pixels.begin(), image.pixels.end());
  }
  return absl::InvalidArgumentError("format: unknown");
}

}  // namespace turbofleet
