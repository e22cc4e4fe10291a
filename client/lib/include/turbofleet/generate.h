// Requests for images and what comes back. Plain data; nothing here touches the network.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace turbofleet::client {

enum class FileFormat { kPng, kJpeg, kWebp, kRaw };

enum class Vae { kFull, kTiny };

// How urgent work is: somebody waits for it, in between, overnight. Each class gets a share of the devices while it has
// work, 16 to 4 to 1.
enum class Priority { kInteractive, kNormal, kBulk };

// Images to generate: every prompt with every seed. The image at `prompt_index * seeds_per_prompt + seed_index` shows
// prompt `prompt_index` drawn from seed `seed_index`. A picture depends on the model and on these fields alone, so the
// same request gives the same pixels whichever worker draws it.
struct GenerateRequest {
  // 1 to 1,000 prompts in UTF-8 of at most 4,096 bytes each.
  std::vector<std::string> prompts = {};
  // Only with `guidance_scale` above 1; at most 4,096 bytes.
  std::string negative_prompt = {};
  // The seed of the first image of each prompt, 0 to 4,294,967,295. Not set: the coordinator draws one.
  std::optional<uint64_t> seed = {};
  // Images per prompt, from `seed` upwards. Not set: 1.
  std::optional<int32_t> count = {};
  // Instead of `seed` and `count`: the seed of each image of a prompt.
  std::vector<uint64_t> seeds = {};
  // Pixels, a multiple of 8 from 64 to 1024. Not set: the model's.
  std::optional<int32_t> width = {};
  std::optional<int32_t> height = {};
  // Sampler steps, 1 to 4. Not set: 1, or 2 with an `init_image`.
  std::optional<int32_t> steps = {};
  // Classifier-free guidance, 0 to 20. Not set: 0.
  std::optional<double> guidance_scale = {};
  // The bytes of a PNG, JPEG or WebP file to start from, at most 8 MiB. Empty: text-to-image.
  std::string init_image = {};
  // How far to go from `init_image`: above 0 to 1, and int(steps * strength) must be 1 or more. Not set: 0.5.
  std::optional<double> strength = {};
  // Not set: PNG.
  std::optional<FileFormat> format = {};
  // JPEG and WebP only, 1 to 100. Not set: 95.
  std::optional<int32_t> quality = {};
  // Whether files carry the parameters that made them; not for raw. Not set: true.
  std::optional<bool> embed_metadata = {};
  // Not set: the full one.
  std::optional<Vae> vae = {};
  // The model's digest or name. Empty: the one that the cluster serves.
  std::string model = {};
  // Has no influence on the pictures. Not set: interactive, or normal for a job.
  std::optional<Priority> priority = {};
};

// INVALID_ARGUMENT if the cluster would refuse `request` whatever its state: the message starts with the field, and
// BadFieldsOf() has it. Client::GenerateImages() checks this before it sends anything.
absl::Status Validate(const GenerateRequest& request);

// The request was admitted; every default is filled in.
struct Accepted {
  std::string job;  // `jobs/{job}`.
  int64_t image_count = 0;
  int32_t width = 0;
  int32_t height = 0;
  int32_t steps = 0;
  std::vector<uint64_t> seeds;  // Of the images of each prompt.
  double strength = 1;          // 1 for text-to-image.
  std::string model_digest;     // "sha256:" and 64 hex digits.
  std::string model_name;
};

// Where the time of one image went; a stage that a batch shares counts in equal parts.
struct ImageTimes {
  absl::Duration queue;
  absl::Duration text;
  absl::Duration vae_encode;
  absl::Duration unet;
  absl::Duration vae_decode;
  absl::Duration file_encode;
  absl::Duration transport;
};

struct Image {
  int64_t index = 0;  // In the request, from 0.
  int64_t prompt_index = 0;
  uint64_t seed = 0;
  int32_t width = 0;
  int32_t height = 0;
  FileFormat format = FileFormat::kPng;
  std::string content;       // The file. For raw: rows from the top, 3 bytes (R, G, B) each.
  std::string pixel_sha256;  // Of the pixels, whatever the format; 64 hex digits.
  std::string model_digest;
  std::string job;     // `jobs/{job}`.
  std::string worker;  // `workers/{worker}`.
  int32_t attempt = 0;
  int32_t batch_size = 0;
  int32_t prompt_tokens_cut = 0;  // Tokens of the prompt that did not fit and had no influence.
  ImageTimes times;
};

// An image that will not come. The others go on.
struct ImageFailure {
  int64_t index = 0;
  int64_t prompt_index = 0;
  uint64_t seed = 0;
  absl::Status status;  // With a reason.
  int32_t attempts = 0;
};

using GenerateEvent = std::variant<Accepted, Image, ImageFailure>;

}  // namespace turbofleet::client
