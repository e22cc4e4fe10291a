// What an agent tells whoever counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/time/time.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// How an image ended on this worker.
enum class ImageOutcome {
  kAccepted,   // Delivered, and the coordinator kept it.
  kRefused,    // Delivered after its lease had ended; thrown away.
  kFailed,     // A failure was delivered.
  kAbandoned,  // Nobody wanted it any more, or its session broke.
};

// Thread-safe; methods are quick.
class AgentObserver {
 public:
  virtual ~AgentObserver() = default;

  virtual void Warmed(absl::Duration took) = 0;
  // A session was opened, or ended.
  virtual void SessionChanged(bool open) = 0;
  // A connection of the control (`session`) or of the delivery stream ended and is dialled again.
  virtual void Reconnecting(std::string_view stream) = 0;
  // A batch left the device after `busy`.
  virtual void BatchRendered(size_t images, absl::Duration busy) = 0;
  virtual void ImageRendered(const StageTimes& times) = 0;
  virtual void ImageEncoded(absl::Duration took) = 0;
  virtual void ImageEnded(ImageOutcome outcome) = 0;
  // Images that were rendered and wait to be made into files, those that are files and not acknowledged, and the bytes
  // of both.
  virtual void BacklogChanged(int64_t encoding, int64_t delivering, int64_t bytes) = 0;
};

// Counts nothing.
class NullAgentObserver : public AgentObserver {
 public:
  void Warmed(absl::Duration) override {}
  void SessionChanged(bool) override {}
  void Reconnecting(std::string_view) override {}
  void BatchRendered(size_t, absl::Duration) override {}
  void ImageRendered(const StageTimes&) override {}
  void ImageEncoded(absl::Duration) override {}
  void ImageEnded(ImageOutcome) override {}
  void BacklogChanged(int64_t, int64_t, int64_t) override {}
};

}  // namespace turbofleet
