// The seam between the network and the pictures: an Engine renders batches on one device and knows nothing of jobs,
// leases or gRPC. No header of libtorch, gRPC or protobuf may be included here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/images/rgb_image.h"

namespace turbofleet {

enum class VaeKind { kFull, kTiny };

// What images must share to be rendered in one batch.
struct RenderShape {
  int width = 0;   // Pixels, a multiple of 8.
  int height = 0;  // Pixels, a multiple of 8.
  int steps = 1;   // Sampler steps that are laid out, 1 to 4.
  // The first step that runs: 0 for text-to-image, steps - int(steps * strength) for image-to-image.
  int first_step = 0;
  bool image_to_image = false;
  VaeKind vae = VaeKind::kFull;

  friend auto operator<=>(const RenderShape&, const RenderShape&) = default;
};

// One image to render. Its picture depends on these fields, the shape and the model, and on nothing else: not on the
// batch, the position in it, or what was rendered before (the seed contract).
struct RenderRequest {
  std::string prompt;           // Valid UTF-8.
  std::string negative_prompt;  // Empty unless guidance_scale > 1.
  double guidance_scale = 0.0;  // Classifier-free guidance runs when above 1.
  uint32_t seed = 0;
  // Image-to-image only: the start picture, already of the shape's width and height. Shared by the images of a job.
  std::shared_ptr<const RgbImage> init_image;
};

struct RenderBatch {
  RenderShape shape;
  std::vector<RenderRequest> requests;
};

// Where the time of one image went. For stages that a batch shares, an equal part of the batch's time.
struct StageTimes {
  absl::Duration text;    // Tokenizer and text encoder.
  absl::Duration encode;  // VAE encoder, image-to-image only.
  absl::Duration unet;    // Sampler steps.
  absl::Duration decode;  // VAE decoder and conversion to RGB.
};

struct RenderedImage {
  RgbImage image;
  StageTimes times;
  int prompt_tokens_cut = 0;  // Tokens beyond the text encoder's length, which had no influence.
};

// What one device can do. Constant for the life of an Engine.
struct EngineInfo {
  std::string model_name;    // For people, such as "sd-turbo".
  std::string model_digest;  // "sha256:" and 64 hex digits, over configs and weights.
  std::string device;        // "cpu", "cuda:0", "simulated".
  std::string device_name;   // Such as "AMD EPYC 9B45 (1 thread)" or "NVIDIA H100 80GB HBM3".
  std::string precision;     // "float32", "bfloat16" or "float16".
  int default_width = 512;   // Pixels; what a request without a size gets.
  int default_height = 512;
  int size_max = 1024;       // Largest width and height.
  int batch_images_max = 8;  // Most images in one RenderBatch.
  bool has_tiny_vae = false;
};

// Called for each image of a batch as soon as it is done, in any order, from the thread that called Render.
using RenderDone = std::function<void(size_t request, absl::StatusOr<RenderedImage> result)>;

// Tells whether nobody wants the image any more. Asked between sampler steps; must be quick and thread-safe.
using RenderAbandoned = std::function<bool(size_t request)>;

// Renders images on one device.
//
// Thread-compatible: one thread calls Warm and Render; Info may be called from any thread at any time.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual const EngineInfo& Info() const = 0;

  // Renders a first picture of the default shape, so that the next one is as quick as those after it. A worker is not
  // ready before this has succeeded.
  virtual absl::Status Warm() = 0;

  // Renders a batch and calls `done` exactly once for each request: with the image; INVALID_ARGUMENT when the request
  // cannot be rendered by anyone; CANCELLED when `abandoned` said so; RESOURCE_EXHAUSTED when the device had no memory
  // for it; INTERNAL when the picture came out broken (NaN). Returns when all calls were made.
  //
  // An error as the return value means that the device itself failed; requests without a call to `done` before that
  // were not rendered, and the engine should not be used again.
  virtual absl::Status Render(const RenderBatch& batch, const RenderAbandoned& abandoned, const RenderDone& done) = 0;
};

}  // namespace turbofleet
