#include "worker/engine/sd_turbo/device.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status.h"
#include "worker/engine/json/strict_json.h"

namespace turbofleet::sd_turbo {
namespace {

absl::StatusOr<at::Device> ParseDevice(const std::string& text) {
  if (text == "cpu") return at::Device(at::kCPU);
  int index = 0;
  absl::string_view number = text;
  const bool is_cuda = text == "cuda" || (absl::ConsumePrefix(&number, "cuda:") && number.size() <= 3 &&
                                          absl::SimpleAtoi(number, &index) && index >= 0);
  if (!is_cuda || index > 127) {
    return absl::InvalidArgumentError(absl::StrCat("device: ", Quoted(text), " is not cpu, cuda or cuda:N"));
  }
  if (!at::globalContext().hasCUDA()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device: ", text, " cannot be used: this program was built without CUDA, or the machine has no CUDA driver"));
  }
  const auto count = static_cast<int>(at::detail::getCUDAHooks().deviceCount());
  if (index >= count) {
    return absl::FailedPreconditionError(absl::StrCat("device: there is no ", text, ", only ", count, " CUDA devices"));
  }
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
}

// The value of the first line "<key> : <value>" of a file of /proc.
std::string ValueInProc(const std::filesystem::path& path, const std::string& key) {
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with(key) && colon != std::string::npos) {
      return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "";
}

std::string GpuName(int index) {
  // Folders of the driver are named by bus address, the order in which CUDA counts equal GPUs.
  std::error_code error;
  std::set<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    folders.insert(entry.path());
  }
  for (const auto& folder : folders) {
    if (index-- == 0) return ValueInProc(folder / "information", "Model");
  }
  return "";
}

}  // namespace

absl::StatusOr<Placement> ParsePlacement(const std::string& device, const std::string& precision) {
  TURBOFLEET_ASSIGN_OR_RETURN(const at::Device parsed, ParseDevice(device));
  Placement placement{.device = parsed, .dtype = at::kFloat};
  if (precision == "float32") return placement;
  if (precision == "bfloat16") {
    placement.dtype = at::kBFloat16;
    return placement;
  }
  if (precision != "float16") {
    return absl::InvalidArgumentError(
        absl::StrCat("precision: ", Quoted(precision), " is not float32, bfloat16 or float16"));
  }
  if (parsed.is_cpu()) {
    return absl::InvalidArgumentError("precision: float16 needs a GPU; use bfloat16 or float32 on a CPU");
  }
  placement.dtype = at::kHalf;
  return placement;
}

std::string DeviceText(const at::Device& device) {
  return device.is_cpu() ? "cpu" : absl::StrCat("cuda:", static_cast<int>(device.index()));
}

std::string DeviceName(const at::Device& device) {
  if (!device.is_cpu()) {
    const std::string name = GpuName(device.index());
    return name.empty() ? DeviceText(device) : name;
  }
  const std::string name = ValueInProc("/proc/cpuinfo", "model name");
  const int threads = at::get_num_threads();
  return absl::StrCat(name.empty() ? "CPU" : name, " (", threads, threads == 1 ? " thread)" : " threads)");
}

}  // namespace turbofleet::sd_turbo
