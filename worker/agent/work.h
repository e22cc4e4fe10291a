// A batch as the agent holds it: what the coordinator sent, checked and translated.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/images/codec.h"
#include "turbofleet/internal/worker/v1/worker_service.pb.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// Limits of the protocol, wider than what the public API admits.
inline constexpr int kSlotMax = 1023;
inline constexpr int kSideMin = 64;              // Pixels.
inline constexpr int kStepsMax = 4;              // Sampler steps.
inline constexpr size_t kPromptBytesMax = 8192;  // Of a prompt, and of a negative prompt.
inline constexpr double kGuidanceMax = 100.0;

// One image of a Work.
struct WorkImage {
  int slot = 0;
  // Without the start picture, which arrives later.
  RenderRequest request;
  std::string init_image_sha256;  // Empty for text-to-image.
  double strength = 0.0;          // 0 for text-to-image.
  ImageFormat format = ImageFormat::kPng;
  int quality = 0;
  bool embed_metadata = false;
  // Of a durable job: its name and the image's index in it, by which its result is kept when the session breaks. Empty:
  // it goes with the session.
  std::string job;
  int32_t index = 0;
  // Set by the control thread, read by those that render and encode. Never cleared.
  std::atomic<bool> abandoned = false;
};

// One leased batch. Constant once made, but for what says otherwise; shared by the threads it passes through.
struct Work {
  int64_t session = 0;  // Counts the agent's sessions from 1.
  std::string session_name;
  uint64_t lease = 0;
  RenderShape shape;
  std::vector<std::unique_ptr<WorkImage>> images;
  bool adopted = false;  // Images that this worker held when it dialled.
};

// Checks every field of `batch` against the protocol's limits and what `engine` can do. The result has no session yet.
// INVALID_ARGUMENT names the field; the coordinator and the worker then do not understand each other.
absl::StatusOr<std::shared_ptr<Work>> ReadBatch(const internal::worker::v1::Batch& batch, const EngineInfo& engine);

}  // namespace turbofleet
