// How images of a durable job ended.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace turbofleet {

// Where the time of an image went, as its worker measured it.
struct StageDurations {
  absl::Duration text;
  absl::Duration vae_encode;
  absl::Duration unet;
  absl::Duration vae_decode;
  absl::Duration file_encode;
  absl::Duration transport;

  friend bool operator==(const StageDurations&, const StageDurations&) = default;
};

// Why there is no picture. INVALID_ARGUMENT: no worker could make it; otherwise another try may succeed.
struct RenderError {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string reason;
  std::string message;

  friend bool operator==(const RenderError&, const RenderError&) = default;
};

// Where a picture's file lies in the spool.
struct PackedFile {
  std::string pack;  // The pack's name.
  int64_t offset = 0;
  int64_t length = 0;
  uint32_t crc32c = 0;

  friend bool operator==(const PackedFile&, const PackedFile&) = default;
};

// A picture whose file is in a pack.
struct PackedPicture {
  PackedFile file;
  std::string pixel_sha256;  // 64 hex digits.
  std::string worker;        // Without "workers/".
  int32_t attempt = 0;
  int32_t batch_size = 0;
  int32_t prompt_tokens_cut = 0;
  absl::Duration queue_wait;
  StageDurations stages;

  friend bool operator==(const PackedPicture&, const PackedPicture&) = default;
};

// An image that ended without a picture.
struct FailedResult {
  RenderError error;
  int32_t attempts = 0;

  friend bool operator==(const FailedResult&, const FailedResult&) = default;
};

struct ImageResult {
  int32_t index = 0;
  std::variant<PackedPicture, FailedResult> outcome;

  friend bool operator==(const ImageResult&, const ImageResult&) = default;
};

}  // namespace turbofleet
