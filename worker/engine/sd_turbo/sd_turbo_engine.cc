#include "worker/engine/sd_turbo/sd_turbo_engine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <climits>
#include <exception>
#include <filesystem>
#include <new>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/engine/sd_turbo/device.h"
#include "worker/engine/sd_turbo/model.h"
#include "worker/engine/sd_turbo/model_digest.h"
#include "worker/engine/sd_turbo/pipeline.h"

namespace turbofleet {
namespace {

constexpr int kThreadsMax = 1024;
constexpr int kBatchImagesMax = 1024;
constexpr int kTextCacheEntriesMax = 1'000'000;
constexpr int kPixelsPerLatent = 8;

// The one place where exceptions of libtorch become statuses: no memory is RESOURCE_EXHAUSTED, all else INTERNAL.
template <typename Function>
auto CatchTorchErrors(const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the device has no memory left: ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    // The CPU's allocator throws its own kind of error.
    if (absl::StrContains(what, "not enough memory") || absl::StrContains(what, "can't allocate memory")) {
      return absl::ResourceExhaustedError(absl::StrCat("the machine has no memory left: ", what));
    }
    return absl::InternalError(absl::StrCat("libtorch: ", what));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("the machine has no memory left");
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("libtorch: ", error.what()));
  }
}

absl::Status CheckOptions(const SdTurboOptions& options) {
  const auto check = [](const char* field, int value, int min, int max) {
    if (value >= min && value <= max) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(field, ": must be ", min, " to ", max));
  };
  TURBOFLEET_RETURN_IF_ERROR(check("threads", options.threads, 0, kThreadsMax));
  TURBOFLEET_RETURN_IF_ERROR(check("batch_images_max", options.batch_images_max, 1, kBatchImagesMax));
  return check("text_cache_entries_max", options.text_cache_entries_max, 0, kTextCacheEntriesMax);
}

// OpenMP counts threads for each thread that starts work, so this belongs to the beginning of every call.
void UseThreads(int threads) {
  if (threads > 0) {
    at::set_num_threads(threads);
  } else {
    at::init_num_threads();
  }
}

std::string NameOfFolder(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(model_dir, error);
  if (error) return model_dir;
  // A folder called "model" says nothing; what it belongs to does.
  const bool generic = path.filename() == "model" && path.parent_path().has_filename();
  return (generic ? path.parent_path() : path).filename().string();
}

class SdTurboEngine : public Engine {
 public:
  SdTurboEngine(std::unique_ptr<sd_turbo::Pipeline> pipeline, EngineInfo info, int threads)
      : pipeline_(std::move(pipeline)), info_(std::move(info)), threads_(threads) {}

  const EngineInfo& Info() const override { return info_; }

  absl::Status Warm() override {
    const RenderShape shape{.width = info_.default_width, .height = info_.default_height};
    RenderRequest request;
    request.prompt = "a";
    absl::Status result;
    const absl::Status status = Render(
        {.shape = shape, .requests = {request}}, [](size_t) { return false; },
        [&result](size_t, const absl::StatusOr<RenderedImage>& image) { result = image.status(); });
    return status.ok() ? result : status;
  }

  absl::Status Render(const RenderBatch& batch, const RenderAbandoned& abandoned, const RenderDone& done) override {
    UseThreads(threads_);
    absl::Status shape = pipeline_->CheckShape(batch.shape);
    if (shape.ok() && batch.requests.size() > static_cast<size_t>(info_.batch_images_max)) {
      shape = absl::InvalidArgumentError(absl::StrCat("batch: at most ", info_.batch_images_max, " images"));
    }
    for (size_t i = 0; i < batch.requests.size(); ++i) {
      if (!shape.ok()) {
        done(i, shape);
        continue;
      }
      absl::StatusOr<RenderedImage> image = RenderOne(batch, i, abandoned);
      // After a fault of the driver, no later call on the device succeeds.
      if (IsDeviceFault(image.status())) return image.status();
      done(i, std::move(image));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<RenderedImage> RenderOne(const RenderBatch& batch, size_t i, const RenderAbandoned& abandoned) {
    return CatchTorchErrors([&]() -> absl::StatusOr<RenderedImage> {
      const c10::InferenceMode no_gradients;
      return pipeline_->Render(
          batch.shape, batch.requests[i], [&] { return abandoned && abandoned(i); }, sd_turbo::StageObserver());
    });
  }

  bool IsDeviceFault(const absl::Status& status) const {
    return !pipeline_->model().placement.device.is_cpu() && status.code() == absl::StatusCode::kInternal &&
           absl::StrContains(status.message(), "CUDA");
  }

  const std::unique_ptr<sd_turbo::Pipeline> pipeline_;
  const EngineInfo info_;
  const int threads_;
};

absl::StatusOr<std::unique_ptr<Engine>> Make(const SdTurboOptions& options) {
  TURBOFLEET_RETURN_IF_ERROR(CheckOptions(options));
  UseThreads(options.threads);
  const c10::InferenceMode no_gradients;
  TURBOFLEET_ASSIGN_OR_RETURN(const sd_turbo::Placement placement,
                              sd_turbo::ParsePlacement(options.device, options.precision));
  TURBOFLEET_ASSIGN_OR_RETURN(
      std::unique_ptr<sd_turbo::Model> model,
      sd_turbo::LoadModel({.model = options.model_dir, .tiny_vae = options.tiny_vae_dir}, placement));
  const std::string cache = options.digest_cache_dir.empty() ? sd_turbo::UserCacheFolder() : options.digest_cache_dir;
  TURBOFLEET_ASSIGN_OR_RETURN(std::string digest, sd_turbo::CachedModelDigest(model->files, {.folder = cache}));
  EngineInfo info{
      .model_name = options.model_name.empty() ? NameOfFolder(options.model_dir) : options.model_name,
      .model_digest = std::move(digest),
      .device = sd_turbo::DeviceText(placement.device),
      .device_name = sd_turbo::DeviceName(placement.device),
      .precision = options.precision,
      .default_width = static_cast<int>(model->config.unet.sample_size) * kPixelsPerLatent,
      .default_height = static_cast<int>(model->config.unet.sample_size) * kPixelsPerLatent,
      .batch_images_max = options.batch_images_max,
      .has_tiny_vae = model->tiny_vae.has_value(),
  };
  auto pipeline = std::make_unique<sd_turbo::Pipeline>(
      std::move(model),
      sd_turbo::Pipeline::Options{.text_cache_entries_max = options.text_cache_entries_max, .size_max = info.size_max});
  return std::make_unique<SdTurboEngine>(std::move(pipeline), std::move(info), options.threads);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> MakeSdTurboEngine(const SdTurboOptions& options) {
  return CatchTorchErrors([&] { return Make(options); });
}

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, INT_MAX);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
}

}  // namespace turbofleet
