// The command line of turbofleet-worker.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/credentials.h"
#include "common/standard_flags.h"

namespace turbofleet {

// One device and how to run on it.
struct DeviceOptions {
  std::string device;     // "cpu" or "cuda:N"; with the simulated engine "simulated" or "simulated:N".
  std::string precision;  // "float32", "bfloat16" or "float16"; empty with the simulated engine.
  int batch_size = 0;     // Most images in a batch; 0 with the simulated engine means what --simulated says.
};

struct WorkerOptions {
  std::string coordinator;
  std::string name;  // Empty: the machine's name and a random number.
  std::string engine = "sd-turbo";
  std::vector<DeviceOptions> devices;
  std::string model_dir;     // Only the sd-turbo engine.
  std::string tiny_vae_dir;  // Only the sd-turbo engine. Empty: the model's own, if it has one.
  std::string simulated;     // Only the simulated engine.
  int threads = 0;           // CPU threads per device; 0: the library's choice.
  int encoder_threads = 0;   // 0: half of the cores, 1 to 8.
  std::string http_listen = "127.0.0.1:0";
  std::string address_file;  // Empty: none.
  absl::Duration drain_timeout = absl::Seconds(30);
  TlsOptions tls;
  LogOptions log;
};

// Fills `options` and checks them together. A value is an exit code to leave with.
std::optional<int> ParseOptions(int argc, const char* const* argv, WorkerOptions* options);

// The devices of `--device`, `--precision` and `--batch-size`, with the defaults filled in, for the engine. Precision:
// float32 on a CPU, which gives the reference's pictures and is quick on every CPU; bfloat16 on a GPU.
// INVALID_ARGUMENT names the option.
absl::StatusOr<std::vector<DeviceOptions>> ResolveDevices(const std::string& engine,
                                                          const std::vector<std::string>& devices,
                                                          const std::string& precision, int batch_size);

// The names that the agents have: `name` for a single device, "name/device" for several.
std::vector<std::string> WorkerNames(const std::string& name, const std::vector<DeviceOptions>& devices);

// Whether `name` is 1 to 128 characters of [A-Za-z0-9._:/-], as the protocol has it.
bool IsWorkerName(const std::string& name);

}  // namespace turbofleet
