#include "worker/engine/simulated/simulated_engine.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/sha256.h"
#include "worker/engine/simulated/simulated_picture.h"

namespace turbofleet {
namespace {

// Part of the digest: to be changed when the pictures do.
constexpr char kModel[] = "turbofleet simulated model 1";

class SimulatedEngine : public Engine {
 public:
  SimulatedEngine(const SimulatedEngineOptions& options, std::function<void(absl::Duration)> sleep)
      : options_(options), sleep_(std::move(sleep)), random_(options.seed) {
    info_.model_name = "simulated";
    info_.model_digest = options.model_digest.empty() ? absl::StrCat("sha256:", Sha256Hex(kModel, sizeof(kModel) - 1))
                                                      : options.model_digest;
    info_.device = "simulated";
    info_.device_name = "simulated device";
    info_.precision = "float32";
    info_.default_width = options.width;
    info_.default_height = options.height;
    info_.batch_images_max = options.batch_images_max;
  }

  const EngineInfo& Info() const override { return info_; }

  absl::Status Warm() override { return absl::OkStatus(); }

  absl::Status Render(const RenderBatch& batch, const RenderAbandoned& abandoned, const RenderDone& done) override {
    ++batches_;
    if (options_.fail_device_after > 0 && batches_ > options_.fail_device_after) {
      return absl::InternalError("simulated engine: the device failed, as asked by fail_device_after");
    }
    // The draws are made whether they are used or not, so that one option does not change what another one does.
    const double crash = random_.NextUnit(), jitter = random_.NextUnit();
    if (crash < options_.crash_rate) std::_Exit(134);
    const double factor = 1 + options_.jitter * (2 * jitter - 1);
    sleep_(options_.batch_time * factor);

    for (size_t i = 0; i < batch.requests.size(); ++i) {
      // A real engine asks between sampler steps; so does this one.
      const int steps = batch.shape.steps - batch.shape.first_step;
      bool wanted = true;
      for (int step = 0; step < steps && wanted; ++step) {
        wanted = !abandoned(i);
        if (wanted) sleep_(options_.image_time * factor / steps);
      }
      done(i, wanted ? RenderOne(batch.shape, batch.requests[i], factor)
                     : absl::StatusOr<RenderedImage>(absl::CancelledError("abandoned")));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<RenderedImage> RenderOne(const RenderShape& shape, const RenderRequest& request, double factor) const {
    if (shape.image_to_image != (request.init_image != nullptr)) {
      return absl::InvalidArgumentError("init_image: does not go with the shape");
    }
    if (request.init_image != nullptr &&
        (request.init_image->width != shape.width || request.init_image->height != shape.height)) {
      return absl::InvalidArgumentError("init_image: has another size than the shape");
    }
    // Another stream than the picture's, but of the same request, so that it fails on every try.
    if (CounterRandom(~FingerprintOf(shape, request)).NextUnit() < options_.failure_rate) {
      return absl::InternalError("simulated failure, as asked by failure_rate");
    }
    RenderedImage rendered;
    rendered.image = DrawSimulatedPicture(shape, request);
    rendered.times.unet = options_.image_time * factor;
    return rendered;
  }

  const SimulatedEngineOptions options_;
  const std::function<void(absl::Duration)> sleep_;
  EngineInfo info_;
  CounterRandom random_;
  int64_t batches_ = 0;
};

}  // namespace

std::unique_ptr<Engine> MakeSimulatedEngine(const SimulatedEngineOptions& options,
                                            std::function<void(absl::Duration)> sleep) {
  return std::make_unique<SimulatedEngine>(options, std::move(sleep));
}

}  // namespace turbofleet
