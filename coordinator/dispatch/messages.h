// What passes between the dispatcher and the services: the protocol's content without its encoding.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"
#include "coordinator/store/job_spec.h"
#include "coordinator/store/results.h"

namespace turbofleet {

// A request for images that is right in itself. What only the cluster knows is still open.
struct JobRequest {
  std::vector<std::string> prompts;
  std::string negative_prompt;
  double guidance_scale = 0.0;
  std::vector<uint32_t> seeds;         // Empty: first_seed and those after it.
  std::optional<uint32_t> first_seed;  // Nothing: drawn.
  int32_t seeds_per_prompt = 1;        // seeds.size() if there are any.
  int32_t width = 0;                   // 0: the model's.
  int32_t height = 0;                  // 0: the model's.
  int32_t steps = 1;
  int32_t first_step = 0;
  std::string init_image;  // The file; empty for text-to-image.
  double strength = 0.0;
  FileFormat format = FileFormat::kPng;
  int32_t quality = 95;
  bool embed_metadata = true;
  bool tiny_vae = false;
  std::string model;  // Digest or name; empty: the one that there is.
  JobClass job_class = JobClass::kInteractive;
  std::string tenant;
};

// Who a worker is. Constant for its session.
struct WorkerIdentity {
  std::string name;  // Without "workers/".
  std::string version;
  std::string model_name;
  std::string model_digest;
  std::string device;
  std::string device_name;
  std::string precision;
  int32_t default_width = 0;
  int32_t default_height = 0;
  int32_t size_max = 0;
  int32_t batch_images_max = 1;
  bool has_tiny_vae = false;
};

// An image of a durable job that a worker has from an earlier session.
struct HeldImage {
  std::string job;  // "jobs/{job}".
  int32_t index = 0;
};

// How a session is kept.
struct SessionTerms {
  std::string token;  // Names the session in deliveries; cannot be guessed.
  absl::Duration report_interval;
  absl::Duration session_timeout;
};

// One image of a batch.
struct ImageToRender {
  std::shared_ptr<const JobSpec> spec;
  int32_t index = 0;
  std::string prompt;
  bool durable = false;  // Its result may outlive the session.
};

// A batch for a worker.
struct BatchToRender {
  LeaseId lease{};
  BatchShape shape;
  std::vector<ImageToRender> images;  // By slot.
  bool adopted = false;               // The worker has held them since an earlier session.
};

// A picture as a worker hands it over.
struct Picture {
  std::string content;
  std::string pixel_sha256;
  int32_t batch_size = 0;
  int32_t prompt_tokens_cut = 0;
  StageDurations stages;
};

using RenderOutcome = std::variant<Picture, RenderError>;

// An image that has ended as a picture.
struct FinishedImage {
  int32_t index = 0;
  Picture picture;
  std::string worker;  // Without "workers/".
  int32_t attempt = 0;
  absl::Duration queue_wait;
};

// An image that has ended without one.
struct UnfinishedImage {
  int32_t index = 0;
  RenderError error;
  int32_t attempts = 0;
};

}  // namespace turbofleet
