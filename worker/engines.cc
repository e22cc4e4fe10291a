#include "worker/engines.h"

#include "absl/time/clock.h"
#include "common/status.h"
#include "worker/engine/simulated/simulated_engine.h"
#ifdef TURBOFLEET_HAS_SD_TURBO
#include "worker/engine/sd_turbo/sd_turbo_engine.h"
#endif

namespace turbofleet {
namespace {

absl::StatusOr<std::unique_ptr<Engine>> MakeSimulated(const WorkerOptions& options, const DeviceOptions& device) {
  absl::StatusOr<SimulatedEngineOptions> simulated = ParseSimulatedEngineOptions(options.simulated);
  if (!simulated.ok()) return Annotate(simulated.status(), "--simulated");
  if (device.batch_size > 0) simulated->batch_images_max = device.batch_size;
  return MakeSimulatedEngine(*simulated, [](absl::Duration duration) { absl::SleepFor(duration); });
}

}  // namespace

#ifdef TURBOFLEET_HAS_SD_TURBO

void PrepareProcess() { KeepFreedMemory(); }

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const WorkerOptions& options, const DeviceOptions& device) {
  if (options.engine == "simulated") return MakeSimulated(options, device);
  SdTurboOptions sd_turbo;
  sd_turbo.model_dir = options.model_dir;
  sd_turbo.device = device.device;
  sd_turbo.precision = device.precision;
  sd_turbo.threads = options.threads;
  sd_turbo.batch_images_max = device.batch_size;
  sd_turbo.tiny_vae_dir = options.tiny_vae_dir;
  return MakeSdTurboEngine(sd_turbo);
}

#else

void PrepareProcess() {}

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const WorkerOptions& options, const DeviceOptions& device) {
  if (options.engine == "simulated") return MakeSimulated(options, device);
  return absl::UnimplementedError(
      "--engine: this build has the simulated engine only; configure with -DTURBOFLEET_TORCH=ON for sd-turbo");
}

#endif

}  // namespace turbofleet
