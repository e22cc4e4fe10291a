// The words of the deciding core: ids, shapes, and what goes in and comes out.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"

namespace turbofleet {

// Ids rise within a coordinator's life and are never used twice.
enum class JobId : uint64_t {};
enum class SessionId : uint64_t {};
enum class LeaseId : uint64_t {};

// One picture of a job, by index.
struct ImageId {
  JobId job{};
  int32_t index = 0;

  friend auto operator<=>(const ImageId&, const ImageId&) = default;
};

// What images must share to be one batch, besides the model.
struct BatchShape {
  int32_t width = 0;       // Pixels.
  int32_t height = 0;      // Pixels.
  int32_t steps = 1;       // Sampler steps that are laid out.
  int32_t first_step = 0;  // The first step that runs, below `steps`.
  bool image_to_image = false;
  bool tiny_vae = false;

  friend auto operator<=>(const BatchShape&, const BatchShape&) = default;
};

// What a job is for, which decides its share of the devices while there is not enough for all.
enum class JobClass {
  kInteractive,  // Somebody waits.
  kNormal,
  kBulk,  // Overnight.
};
inline constexpr int kJobClasses = 3;

// What the core has to know of a job.
struct JobPlacement {
  JobId id{};
  std::string tenant{};       // Jobs of one tenant share its part.
  int32_t tenant_weight = 1;  // 1 to 1,000: its part among the tenants of its class. That of its latest job counts.
  JobClass job_class = JobClass::kNormal;
  std::string model_digest{};
  BatchShape shape{};
  int32_t image_count = 0;  // 0: open-ended, for AddImages().
  absl::Time deadline = absl::InfiniteFuture();
  int64_t prompt_bytes = 0;  // Memory that its prompts hold while it lives.
};

// A limit that does not allow more for now.
struct LimitReached {
  std::string name;  // Such as "images_queued_max".
  int64_t max = 0;
};

// What is queued already would have to be done faster than the workers are.
struct DeadlineUnreachable {
  absl::Duration predicted;  // From now until the job's last image, as far as can be told.
};

using Refusal = std::variant<LimitReached, DeadlineUnreachable>;

// What a session's worker can do. Constant for the session.
struct WorkerCapacity {
  std::string worker{};  // Its name, the same in its next session. Empty: nobody knows it.
  std::string model_digest{};
  int32_t size_max = 0;  // Largest width and height, in pixels.
  int32_t batch_images_max = 1;
  bool has_tiny_vae = false;
};

// What a worker says of itself, as a whole, at one moment.
struct WorkerReport {
  int64_t batches_taken_max = 0;   // Batches it is ready to have been sent in all.
  std::vector<LeaseId> leases{};   // Those it has not finished, in any order.
  std::vector<LeaseId> started{};  // Those of them that have been on the device, in any order.
  LeaseId last_lease_received{};   // Those above are still on their way.
  bool draining = false;
  uint64_t progress = 0;  // Moves while the device does.
};

// The right of a session to render a batch.
struct Lease {
  LeaseId id{};
  SessionId session{};
  BatchShape shape;
  std::vector<ImageId> images;  // By slot.
};

// A lease of images that a worker held before it had the session.
struct Adoption {
  LeaseId lease{};              // 0: there is nothing in it.
  std::vector<ImageId> images;  // By slot. Those that are not in it belong to others by now, or have ended.
};

// Why an image was rendered again, or was not rendered at all.
enum class RetryReason {
  kWorkerLost,    // Its session ended, or fell silent.
  kWorkerStuck,   // The device made no progress.
  kReleased,      // The worker gave it back.
  kRenderFailed,  // The worker tried and failed.
  kDeviceFailed,  // The worker's device is to blame, not the image.
  kPoison,        // Workers died of it again and again.
};

// An image that will not be tried again.
struct FailedImage {
  ImageId image;
  int32_t attempts = 0;
  RetryReason reason = RetryReason::kWorkerLost;
};

// Images of a lease that nobody wants any more.
struct Abandonment {
  SessionId session{};
  LeaseId lease{};
  std::vector<int32_t> slots{};  // Empty: all of them.
};

// Images that went back to the queue.
struct Requeue {
  RetryReason reason = RetryReason::kWorkerLost;
  int32_t images = 0;
};

// Everything that the caller has to do after an event, besides Assign().
struct Effects {
  std::vector<FailedImage> failed;              // Tell the job's watch.
  std::vector<Abandonment> abandoned;           // Tell the worker.
  std::vector<SessionId> lost_sessions;         // Close the stream: it was silent for too long.
  std::vector<SessionId> stuck_sessions;        // For the log.
  std::vector<SessionId> quarantined_sessions;  // For the log: its device fails, and gets nothing for a while.
  std::vector<Requeue> requeued;                // For the metrics.
  std::vector<JobId> expired_jobs;              // End them: their deadline has passed, and nothing more is leased.
};

// How a worker says that an image ended.
enum class Outcome {
  kRendered,
  kRefused,       // No worker could render it: it fails at once.
  kFailed,        // Another try may succeed.
  kDeviceFailed,  // The same, and the device is to blame: the image is not charged with the try.
};

// What became of a delivery.
struct Delivery {
  enum class Verdict {
    kLate,      // The image has ended, or the lease does not hold it: throw the picture away.
    kFinished,  // The image has ended, by this delivery: as a picture or as a failure.
    kRetried,   // It failed and will be tried again.
  };
  Verdict verdict = Verdict::kLate;
  ImageId image;
  int32_t attempt = 0;        // From 1.
  absl::Duration queue_wait;  // From when it was queued until a worker had it.
  Effects effects{};
};

// How much of one class waits, at one moment.
struct ClassLoad {
  int64_t images_queued = 0;
  absl::Duration oldest_queued_age;  // Zero if nothing is queued.
};

// How much there is of what, at one moment.
struct SchedulerLoad {
  int64_t jobs = 0;
  int64_t images_queued = 0;
  int64_t images_leased = 0;
  int64_t prompt_bytes = 0;
  absl::Duration oldest_queued_age;  // Zero if nothing is queued.
  std::array<ClassLoad, kJobClasses> classes{};
};

// The same for one session.
struct SessionLoad {
  int64_t images_leased = 0;
  bool draining = false;
  bool stuck = false;
  bool quarantined = false;
  double speed = 1.0;  // In proportion to that of the other workers of its model.
};

}  // namespace turbofleet
