#include "worker/options.h"

#include <algorithm>
#include <cctype>
#include <iostream>
#include <set>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/address.h"
#include "common/flags.h"
#include "common/status.h"

namespace turbofleet {
namespace {

constexpr char kSimulated[] = "simulated";
constexpr size_t kNameBytesMax = 128;
constexpr int kBatchImagesMax = 1024;
constexpr int kBatchImagesOnCpu = 4;
constexpr int kBatchImagesOnGpu = 8;

// Flags as they were given, before they are resolved.
struct RawDevices {
  std::vector<std::string> devices;
  std::string precision;
  int batch_size = 0;
};

bool HasNumber(const std::string& device, const std::string& prefix) {
  const size_t digits = device.size() - std::min(device.size(), prefix.size());
  return device.rfind(prefix, 0) == 0 && digits >= 1 && digits <= 3 &&
         std::all_of(device.begin() + static_cast<int64_t>(prefix.size()), device.end(),
                     [](unsigned char c) { return std::isdigit(c) != 0; });
}

absl::Status CheckDevice(const std::string& engine, const std::string& device) {
  if (engine == kSimulated) {
    if (device == kSimulated || HasNumber(device, "simulated:")) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--device: '", device, "' is neither simulated nor simulated:N, as --engine simulated needs"));
  }
  if (device == "cpu" || HasNumber(device, "cuda:")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--device: '", device, "' is neither cpu nor cuda:N"));
}

absl::StatusOr<DeviceOptions> Resolve(const std::string& engine, const std::string& device,
                                      const std::string& precision, int batch_size) {
  TURBOFLEET_RETURN_IF_ERROR(CheckDevice(engine, device));
  if (engine == kSimulated) return DeviceOptions{.device = device, .precision = "", .batch_size = batch_size};
  const bool cpu = device == "cpu";
  if (cpu && precision == "float16") {
    return absl::InvalidArgumentError("--precision: float16 runs on GPUs only; a CPU takes float32 or bfloat16");
  }
  return DeviceOptions{
      .device = device,
      .precision = !precision.empty() ? precision
                   : cpu              ? "float32"
                                      : "bfloat16",
      .batch_size = batch_size > 0 ? batch_size
                    : cpu          ? kBatchImagesOnCpu
                                   : kBatchImagesOnGpu,
  };
}

std::string CheckAddress(std::string& text) {
  return std::string(ParseHostPort("the address", text).status().message());
}

std::string CheckName(std::string& text) {
  return IsWorkerName(text) ? "" : "'" + text + "' is not 1 to 128 characters of [A-Za-z0-9._:/-]";
}

std::string CheckDuration(std::string& text) {
  absl::Duration value;
  if (!absl::ParseDuration(text, &value)) return "'" + text + "' is no duration such as 500ms, 30s or 5m";
  return value < absl::ZeroDuration() || value > absl::Hours(24) ? "must be 0s to 24h" : "";
}

void AddEngine(CLI::App& app, WorkerOptions* options, RawDevices* raw) {
  constexpr char kGroup[] = "Engine";
  app.add_option("--engine", options->engine,
                 "sd-turbo renders with a model; simulated makes up small pictures, for tests of a cluster")
      ->check(CLI::IsMember({"sd-turbo", kSimulated}))
      ->type_name("ENGINE")
      ->capture_default_str()
      ->group(kGroup);
  app.add_option("--model", options->model_dir,
                 "Model folder in the layout of Hugging Face diffusers; requests may ask for the model by the folder's "
                 "name, or by that of the folder around it where it is called model")
      ->type_name("DIR")
      ->group(kGroup);
  app.add_option("--tiny-vae", options->tiny_vae_dir, "Folder of a tiny VAE; without it the model's vae_tiny/, if any")
      ->type_name("DIR")
      ->group(kGroup);
  app.add_option("--device", raw->devices,
                 "cpu or cuda:N; again, or with commas, for several devices (default: cpu; with the simulated engine "
                 "simulated, or simulated:N for several)")
      ->delimiter(',')
      ->type_name("DEVICE")
      ->group(kGroup);
  app.add_option("--precision", raw->precision,
                 "float32, bfloat16, or float16 on GPUs only (default: float32 on a CPU, bfloat16 on a GPU)")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->type_name("TYPE")
      ->group(kGroup);
  app.add_option("--batch-size", raw->batch_size,
                 "Most images that are rendered together (default: 4 on a CPU, 8 on a GPU)")
      ->check(CLI::Range(1, kBatchImagesMax))
      ->type_name("N")
      ->group(kGroup);
  app.add_option("--threads", options->threads, "CPU threads of each device's work (default: what the library takes)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->group(kGroup);
  app.add_option("--simulated", options->simulated,
                 "How the simulated engine behaves, such as image_time=5ms,jitter=0.2,failure_rate=0.01")
      ->type_name("FIELDS")
      ->group(kGroup);
}

void AddOthers(CLI::App& app, WorkerOptions* options) {
  app.add_option("--coordinator", options->coordinator, "Where the coordinator listens")
      ->required()
      ->check(CLI::Validator(CheckAddress, "", ""))
      ->type_name("HOST:PORT");
  app.add_option("--name", options->name,
                 "This worker's name, unique in the cluster (default: the machine's name and a random number). A name "
                 "that stays over restarts lets the new process take over at once")
      ->check(CLI::Validator(CheckName, "", ""))
      ->type_name("NAME");
  app.add_option("--encoder-threads", options->encoder_threads,
                 "Threads that make files, for all devices together (default: half of the cores, 1 to 8)")
      ->check(CLI::Range(1, 256))
      ->type_name("N");
  app.add_option("--http-listen", options->http_listen,
                 "Where /metrics, /healthz, /readyz and /version are served; port 0 takes a free one and logs it")
      ->check(CLI::Validator(CheckAddress, "", ""))
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--address-file", options->address_file,
                 "Write the address that is bound to this file, as http=HOST:PORT, once ready for work")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--drain-timeout", [options](const std::string& text) { absl::ParseDuration(text, &options->drain_timeout); },
         "How long SIGTERM lets running work finish; a second signal ends at once")
      ->check(CLI::Validator(CheckDuration, "", ""))
      ->type_name("DURATION")
      ->default_str(absl::FormatDuration(options->drain_timeout));
}

// What no single option can be blamed for.
absl::Status CheckTogether(const WorkerOptions& options, const RawDevices& raw) {
  const auto refuse = [](const std::string& message) { return absl::InvalidArgumentError(message); };
  if (options.engine != kSimulated) {
    if (options.model_dir.empty()) return refuse("--model: is needed with --engine sd-turbo");
    if (!options.simulated.empty()) return refuse("--simulated: is for --engine simulated only");
    return absl::OkStatus();
  }
  if (!options.model_dir.empty()) return refuse("--model: the simulated engine has no model");
  if (!options.tiny_vae_dir.empty()) return refuse("--tiny-vae: the simulated engine has no VAE");
  if (!raw.precision.empty()) return refuse("--precision: the simulated engine has none");
  if (options.threads != 0) return refuse("--threads: the simulated engine computes nothing");
  return absl::OkStatus();
}

absl::Status ResolveAll(const RawDevices& raw, WorkerOptions* options) {
  TURBOFLEET_RETURN_IF_ERROR(CheckTogether(*options, raw));
  TURBOFLEET_ASSIGN_OR_RETURN(options->devices,
                              ResolveDevices(options->engine, raw.devices, raw.precision, raw.batch_size));
  if (!options->name.empty()) {
    for (const std::string& name : WorkerNames(options->name, options->devices)) {
      if (!IsWorkerName(name)) {
        return absl::InvalidArgumentError(absl::StrCat("--name: '", name, "', with the device, is too long"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<DeviceOptions>> ResolveDevices(const std::string& engine,
                                                          const std::vector<std::string>& devices,
                                                          const std::string& precision, int batch_size) {
  std::vector<std::string> names = devices;
  if (names.empty()) names.push_back(engine == kSimulated ? kSimulated : "cpu");
  std::vector<DeviceOptions> resolved;
  std::set<std::string> seen;
  for (const std::string& name : names) {
    TURBOFLEET_ASSIGN_OR_RETURN(DeviceOptions device, Resolve(engine, name, precision, batch_size));
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat("--device: ", name, " is named twice"));
    }
    resolved.push_back(std::move(device));
  }
  return resolved;
}

std::vector<std::string> WorkerNames(const std::string& name, const std::vector<DeviceOptions>& devices) {
  std::vector<std::string> names;
  for (const DeviceOptions& device : devices) {
    names.push_back(devices.size() == 1 ? name : absl::StrCat(name, "/", device.device));
  }
  return names;
}

bool IsWorkerName(const std::string& name) {
  return !name.empty() && name.size() <= kNameBytesMax && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || std::string(".:/_-").find(static_cast<char>(c)) != std::string::npos);
  });
}

std::optional<int> ParseOptions(int argc, const char* const* argv, WorkerOptions* options) {
  Flags flags("turbofleet-worker", "Renders images for a coordinator, which it connects to, on one or more devices.");
  RawDevices raw;
  AddOthers(flags.app(), options);
  AddEngine(flags.app(), options, &raw);
  AddTlsFlags(flags.app(), TlsRole::kChannel, &options->tls);
  AddLogFlags(flags.app(), &options->log);
  if (const std::optional<int> code = flags.Parse(argc, argv); code.has_value()) return code;
  if (const absl::Status status = ResolveAll(raw, options); !status.ok()) {
    std::cerr << "turbofleet-worker: " << status.message() << "\n";
    return kExitUsage;
  }
  return std::nullopt;
}

}  // namespace turbofleet
