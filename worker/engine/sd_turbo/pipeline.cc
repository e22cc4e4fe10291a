#include "worker/engine/sd_turbo/pipeline.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/engine/sd_turbo/noise.h"

namespace turbofleet::sd_turbo {
namespace {

constexpr int kSizeMin = 64;
constexpr int kLatentPixels = 8;  // Pixels per latent, in each direction.

absl::Status CheckSize(const char* field, int size, int size_max) {
  if (size >= kSizeMin && size <= size_max && size % kLatentPixels == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": must be a multiple of ", kLatentPixels, " from ", kSizeMin, " to ", size_max));
}

// The picture in [-1, 1]: [1, 3, height, width], float32.
at::Tensor ToTensor(const RgbImage& image) {
  at::Tensor bytes = at::empty({1, image.height, image.width, 3}, at::kByte);
  std::memcpy(bytes.data_ptr(), image.pixels.data(), image.pixels.size());
  return bytes.permute({0, 3, 1, 2}).to(at::kFloat).div_(255.0).mul_(2.0).sub_(1.0);
}

// INTERNAL: the picture has values that are no numbers.
absl::StatusOr<RgbImage> ToRgb(const at::Tensor& picture) {
  const at::Tensor values = picture.to(at::kFloat).mul(0.5).add_(0.5);
  if (!at::isfinite(values).all().item<bool>()) {
    return absl::InternalError("the picture came out with values that are no numbers (NaN or infinite)");
  }
  const at::Tensor bytes =
      values.clamp(0, 1).mul_(255).round_().permute({0, 2, 3, 1}).to(at::kCPU, at::kByte).contiguous();
  RgbImage image{.width = static_cast<int>(bytes.size(2)), .height = static_cast<int>(bytes.size(1)), .pixels = {}};
  const uint8_t* data = bytes.const_data_ptr<uint8_t>();
  image.pixels.assign(data, data + bytes.numel());
  return image;
}

}  // namespace

Pipeline::Pipeline(std::unique_ptr<const Model> model, const Options& options)
    : model_(std::move(model)),
      options_(options),
      time_steps_(model_->sampler.AllTimeSteps()),
      text_cache_(static_cast<size_t>(options.text_cache_entries_max)) {}

absl::Status Pipeline::CheckShape(const RenderShape& shape) const {
  TURBOFLEET_RETURN_IF_ERROR(CheckSize("width", shape.width, options_.size_max));
  TURBOFLEET_RETURN_IF_ERROR(CheckSize("height", shape.height, options_.size_max));
  if (shape.steps < 1 || shape.steps > kStepsMax) {
    return absl::InvalidArgumentError(absl::StrCat("steps: must be 1 to ", kStepsMax));
  }
  if (shape.first_step < 0 || shape.first_step >= shape.steps) {
    return absl::InvalidArgumentError("first_step: at least one step must remain, so steps * strength must be >= 1");
  }
  if (!shape.image_to_image && shape.first_step != 0) {
    return absl::InvalidArgumentError("first_step: must be 0 without a start picture");
  }
  if (shape.vae == VaeKind::kTiny && !model_->tiny_vae.has_value()) {
    return absl::InvalidArgumentError("vae: this model has no tiny VAE");
  }
  return absl::OkStatus();
}

absl::Status Pipeline::CheckRequest(const RenderShape& shape, const RenderRequest& request) const {
  if (!std::isfinite(request.guidance_scale) || request.guidance_scale < 0) {
    return absl::InvalidArgumentError("guidance_scale: must be a number of at least 0");
  }
  if (!request.negative_prompt.empty() && request.guidance_scale <= 1) {
    return absl::InvalidArgumentError("negative_prompt: has no influence unless guidance_scale is above 1");
  }
  if (shape.image_to_image != (request.init_image != nullptr)) {
    return absl::InvalidArgumentError(shape.image_to_image ? "init_image: is missing"
                                                           : "init_image: the shape is one of text-to-image");
  }
  if (request.init_image == nullptr) return absl::OkStatus();
  const RgbImage& image = *request.init_image;
  const size_t bytes = size_t{3} * static_cast<size_t>(shape.width) * static_cast<size_t>(shape.height);
  if (image.width != shape.width || image.height != shape.height || image.pixels.size() != bytes) {
    return absl::InvalidArgumentError("init_image: must have the shape's width and height");
  }
  return absl::OkStatus();
}

absl::StatusOr<Pipeline::Prompt> Pipeline::EncodePrompt(const std::string& text) {
  TURBOFLEET_ASSIGN_OR_RETURN(const ClipTokenizer::Tokens tokens, model_->tokenizer.Encode(text));
  Prompt prompt{.states = {}, .tokens_cut = tokens.tokens_cut};
  const std::optional<at::Tensor> known = text_cache_.Find(tokens.ids);
  if (known.has_value()) {
    prompt.states = *known;
    return prompt;
  }
  for (const int64_t id : tokens.ids) {
    if (id < 0 || id >= model_->config.text.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("prompt: token ", id, " is beyond the text encoder's vocabulary"));
    }
  }
  prompt.states = model_->text_encoder(tokens.ids);
  text_cache_.Insert(tokens.ids, prompt.states);
  return prompt;
}

at::Tensor Pipeline::EncodePicture(const RenderShape& shape, const RgbImage& picture,
                                   const std::function<at::Tensor()>& draw, const StageObserver& observer) const {
  const at::Tensor input = ToTensor(picture).to(model_->placement.device, model_->placement.dtype);
  if (shape.vae == VaeKind::kTiny) {
    return model_->tiny_vae->Encode(input).to(at::kFloat).mul_(model_->tiny_scaling_factor);
  }
  const std::vector<at::Tensor> moments = model_->vae_encoder(input, observer).to(at::kFloat).chunk(2, 1);
  const at::Tensor deviation = at::exp(moments[1].clamp(-30.0, 20.0).mul_(0.5));
  return (moments[0] + deviation * draw()).mul_(model_->config.vae.scaling_factor);
}

at::Tensor Pipeline::StartLatents(const RenderShape& shape, const RenderRequest& request, const Schedule& schedule,
                                  const StageObserver& observer) const {
  NoiseStream noise(request.seed);
  const auto draw = [&] {
    return noise
        .Draw({1, model_->config.unet.latent_channels, shape.height / kLatentPixels, shape.width / kLatentPixels})
        .to(model_->placement.device);
  };
  if (!shape.image_to_image) return Sampler::StartFromNoise(draw(), schedule);
  // The picture's latents are drawn before the noise that covers them.
  const at::Tensor latents = EncodePicture(shape, *request.init_image, draw, observer);
  Observe(observer, "vae.latents", latents);
  return Sampler::StartFromPicture(latents, draw(), schedule, shape.first_step);
}

at::Tensor Pipeline::Decode(VaeKind vae, const at::Tensor& latents, const StageObserver& observer) const {
  if (vae == VaeKind::kTiny) {
    return model_->tiny_vae->Decode((latents / model_->tiny_scaling_factor).to(model_->placement.dtype));
  }
  return model_->vae_decoder((latents / model_->config.vae.scaling_factor).to(model_->placement.dtype), observer);
}

// Work on a GPU is only queued by the calls above; stage times need its end.
void Pipeline::Synchronize() const {
  const at::Device device = model_->placement.device;
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

absl::StatusOr<RenderedImage> Pipeline::Render(const RenderShape& shape, const RenderRequest& request,
                                               const std::function<bool()>& abandoned, const StageObserver& observer) {
  TURBOFLEET_RETURN_IF_ERROR(CheckRequest(shape, request));
  if (abandoned()) return absl::CancelledError("nobody wants the image any more");
  RenderedImage result;
  absl::Time mark = clock_.Now();
  const auto lap = [&] {
    Synchronize();
    const absl::Time now = clock_.Now();
    return now - std::exchange(mark, now);
  };

  const bool guided = request.guidance_scale > 1;
  TURBOFLEET_ASSIGN_OR_RETURN(const Prompt prompt, EncodePrompt(request.prompt));
  Prompt negative;
  if (guided) {
    TURBOFLEET_ASSIGN_OR_RETURN(negative, EncodePrompt(request.negative_prompt));
  }
  Observe(observer, "text.states", prompt.states);
  result.prompt_tokens_cut = prompt.tokens_cut;
  result.times.text = lap();

  const Schedule schedule = model_->sampler.MakeSchedule(shape.steps);
  at::Tensor latents = StartLatents(shape, request, schedule, observer);
  Observe(observer, "latents.start", latents);
  if (shape.image_to_image) result.times.encode = lap();

  for (int step = shape.first_step; step < shape.steps; ++step) {
    if (abandoned()) return absl::CancelledError("nobody wants the image any more");
    const double time_step = schedule.time_steps[static_cast<size_t>(step)];
    const auto index =
        static_cast<size_t>(std::find(time_steps_.begin(), time_steps_.end(), time_step) - time_steps_.begin());
    const at::Tensor input = Sampler::ScaleInput(latents, schedule, step).to(model_->placement.dtype);
    at::Tensor output = model_->unet(input, index, prompt.states, observer);
    if (guided) {
      // diffusers computes the two as a batch; alone, a picture's bits cannot depend on that.
      const at::Tensor unguided = model_->unet(input, index, negative.states, StageObserver());
      output = unguided + (output - unguided) * request.guidance_scale;
    }
    latents = model_->sampler.Step(latents, output, schedule, step);
    Observe(observer, absl::StrCat("latents.", step), latents);
  }
  result.times.unet = lap();

  if (abandoned()) return absl::CancelledError("nobody wants the image any more");
  const at::Tensor picture = Decode(shape.vae, latents, observer);
  Observe(observer, "picture", picture);
  TURBOFLEET_ASSIGN_OR_RETURN(result.image, ToRgb(picture));
  result.times.decode = lap();
  return result;
}

}  // namespace turbofleet::sd_turbo
