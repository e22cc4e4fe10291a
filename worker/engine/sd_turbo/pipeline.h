// Makes one picture: prompt, sampler steps, decoding.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "worker/engine/engine.h"
#include "worker/engine/sd_turbo/model.h"
#include "worker/engine/sd_turbo/stage_observer.h"
#include "worker/engine/sd_turbo/text_cache.h"

namespace turbofleet::sd_turbo {

// Thread-compatible: the text cache changes.
class Pipeline {
 public:
  struct Options {
    int text_cache_entries_max = 128;
    int size_max = 1024;  // Pixels.
  };
  Pipeline(std::unique_ptr<const Model> model, const Options& options);

  const Model& model() const { return *model_; }

  // INVALID_ARGUMENT: this shape can be rendered by nobody who has this model; the message names the field.
  absl::Status CheckShape(const RenderShape& shape) const;

  // Renders one image. `abandoned` is asked before each step. INVALID_ARGUMENT, CANCELLED and INTERNAL as of
  // Engine::Render. May throw c10::Error. REQUIRES: CheckShape(shape) is OK.
  absl::StatusOr<RenderedImage> Render(const RenderShape& shape, const RenderRequest& request,
                                       const std::function<bool()>& abandoned, const StageObserver& observer);

 private:
  struct Prompt {
    at::Tensor states;
    int tokens_cut = 0;
  };

  absl::Status CheckRequest(const RenderShape& shape, const RenderRequest& request) const;
  absl::StatusOr<Prompt> EncodePrompt(const std::string& text);
  at::Tensor StartLatents(const RenderShape& shape, const RenderRequest& request, const Schedule& schedule,
                          const StageObserver& observer) const;
  // The latents of the request's picture, scaled; draws from `noise` when the encoder is a distribution.
  at::Tensor EncodePicture(const RenderShape& shape, const RgbImage& picture, const std::function<at::Tensor()>& draw,
                           const StageObserver& observer) const;
  at::Tensor Decode(VaeKind vae, const at::Tensor& latents, const StageObserver& observer) const;
  void Synchronize() const;

  const std::unique_ptr<const Model> model_;
  const Options options_;
  const SteadyClock clock_;
  const std::vector<double> time_steps_;  // As the UNet counts them.
  TextCache text_cache_;
};

}  // namespace turbofleet::sd_turbo
