#include <spng.h>
#include <turbojpeg.h>
#include <webp/decode.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/images/codec.h"
#include "common/status.h"

namespace turbofleet {
namespace {

constexpr std::string_view kPngStart("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view kJpegStart("\xff\xd8\xff", 3);

bool IsWebp(std::string_view bytes) {
  return bytes.size() >= 12 && bytes.substr(0, 4) == "RIFF" && bytes.substr(8, 4) == "WEBP";
}

// Called with what the header says, before any pixel is unpacked.
absl::Status CheckSize(int64_t width, int64_t height, size_t bytes, const DecodeLimits& limits) {
  const std::string size = absl::StrCat(width, " x ", height, " pixels");
  if (width < 1 || height < 1) return absl::InvalidArgumentError("the picture is empty");
  if (width > limits.side_max || height > limits.side_max) {
    return absl::InvalidArgumentError(absl::StrCat(size, ": a side is longer than ", limits.side_max));
  }
  if (width * height > limits.pixels_max) {
    return absl::InvalidArgumentError(absl::StrCat(size, " are more than ", limits.pixels_max));
  }
  if (width * height > limits.ratio_free_pixels &&
      width * height * 3 > limits.ratio_max * static_cast<int64_t>(bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(size, " from ", bytes, " bytes look like a decompression bomb"));
  }
  return absl::OkStatus();
}

RgbImage EmptyImage(int64_t width, int64_t height) {
  RgbImage image = {.width = static_cast<int>(width), .height = static_cast<int>(height), .pixels = {}};
  image.pixels.resize(static_cast<size_t>(width) * height * 3);
  return image;
}

absl::StatusOr<RgbImage> DecodePng(std::string_view bytes, const DecodeLimits& limits) {
  const std::unique_ptr<spng_ctx, void (*)(spng_ctx*)> png(spng_ctx_new(0), spng_ctx_free);
  if (png == nullptr) return absl::ResourceExhaustedError("no memory for a PNG decoder");
  const auto failed = [](int error) { return absl::InvalidArgumentError(absl::StrCat("PNG: ", spng_strerror(error))); };
  spng_set_image_limits(png.get(), static_cast<uint32_t>(limits.side_max), static_cast<uint32_t>(limits.side_max));
  // Text and profiles are not looked at, so they get little room: one packed chunk may unpack to 300 times its size.
  spng_set_chunk_limits(png.get(), limits.bytes_max, size_t{1} << 20);
  if (const int error = spng_set_png_buffer(png.get(), bytes.data(), bytes.size())) return failed(error);
  spng_ihdr header;
  if (const int error = spng_get_ihdr(png.get(), &header)) return failed(error);
  TURBOFLEET_RETURN_IF_ERROR(CheckSize(header.width, header.height, bytes.size(), limits));

  RgbImage image = EmptyImage(header.width, header.height);
  if (const int error = spng_decode_image(png.get(), image.pixels.data(), image.pixels.size(), SPNG_FMT_RGB8, 0)) {
    return failed(error);
  }
  return image;
}

absl::StatusOr<RgbImage> DecodeJpeg(std::string_view bytes, const DecodeLimits& limits) {
  const std::unique_ptr<void, int (*)(tjhandle)> jpeg(tjInitDecompress(), tjDestroy);
  if (jpeg == nullptr) return absl::ResourceExhaustedError("no memory for a JPEG decoder");
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto failed = [&] { return absl::InvalidArgumentError(absl::StrCat("JPEG: ", tjGetErrorStr2(jpeg.get()))); };
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (tjDecompressHeader3(jpeg.get(), data, bytes.size(), &width, &height, &subsampling, &colours) != 0)
    return failed();
  TURBOFLEET_RETURN_IF_ERROR(CheckSize(width, height, bytes.size(), limits));

  RgbImage image = EmptyImage(width, height);
  // A damaged file is only a warning to the library, and a progressive one may ask for scans without end.
  if (tjDecompress2(jpeg.get(), data, bytes.size(), image.pixels.data(), width, 0, height, TJPF_RGB,
                    TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS | TJFLAG_ACCURATEDCT) != 0) {
    return failed();
  }
  return image;
}

absl::StatusOr<RgbImage> DecodeWebp(std::string_view bytes, const DecodeLimits& limits) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, bytes.size(), &features) != VP8_STATUS_OK) {
    return absl::InvalidArgumentError("WebP: the header is damaged");
  }
  if (features.has_animation) return absl::InvalidArgumentError("WebP: it is an animation");
  TURBOFLEET_RETURN_IF_ERROR(CheckSize(features.width, features.height, bytes.size(), limits));
  RgbImage image = EmptyImage(features.width, features.height);
  if (WebPDecodeRGBInto(data, bytes.size(), image.pixels.data(), image.pixels.size(), features.width * 3) == nullptr) {
    return absl::InvalidArgumentError("WebP: the file is damaged or ends early");
  }
  return image;
}

}  // namespace

bool LooksLikeImage(std::string_view bytes) {
  return bytes.substr(0, kPngStart.size()) == kPngStart || bytes.substr(0, kJpegStart.size()) == kJpegStart ||
         IsWebp(bytes);
}

absl::StatusOr<RgbImage> DecodeImage(std::string_view bytes, const DecodeLimits& limits) {
  if (bytes.size() > limits.bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("the file has ", bytes.size(), " bytes, more than ", limits.bytes_max));
  }
  if (bytes.substr(0, kPngStart.size()) == kPngStart) return DecodePng(bytes, limits);
  if (bytes.substr(0, kJpegStart.size()) == kJpegStart) return DecodeJpeg(bytes, limits);
  if (IsWebp(bytes)) return DecodeWebp(bytes, limits);
  return absl::InvalidArgumentError("not a PNG, JPEG or WebP file");
}

}  // namespace turbofleet
