#include "worker/engine/sd_turbo/weight_source.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/sha256.h"
#include "common/status.h"
#include "worker/engine/json/strict_json.h"
#include "worker/engine/sd_turbo/noise.h"

namespace turbofleet::sd_turbo {
namespace {

std::string ShapeText(at::IntArrayRef shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

class FileWeightSource : public WeightSource {
 public:
  FileWeightSource(Component component, std::map<std::string, TensorView> tensors)
      : component_(ComponentName(component)), tensors_(std::move(tensors)) {}

  absl::StatusOr<at::Tensor> Read(const std::string& name, at::IntArrayRef shape) override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      return absl::InvalidArgumentError(absl::StrCat(component_, ": tensor ", name, " is missing"));
    }
    const TensorView& view = found->second;
    if (shape != at::IntArrayRef(view.shape)) {
      return absl::InvalidArgumentError(absl::StrCat(component_, ": tensor ", name, " has shape ",
                                                     ShapeText(view.shape), ", but the config asks for ",
                                                     ShapeText(shape)));
    }
    if (view.dtype == DType::kInt64) {
      return absl::InvalidArgumentError(absl::StrCat(component_, ": tensor ", name, " holds integers"));
    }
    const at::ScalarType dtype = view.dtype == DType::kFloat32   ? at::kFloat
                                 : view.dtype == DType::kFloat16 ? at::kHalf
                                                                 : at::kBFloat16;
    at::Tensor tensor = at::empty(shape, dtype);
    // The bytes in the file need not be aligned.
    std::memcpy(tensor.data_ptr(), view.data, view.size_bytes);
    read_.insert(name);
    return tensor;
  }

  absl::Status CheckAllRead() const override {
    for (const auto& [name, view] : tensors_) {
      if (read_.contains(name)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(component_, ": tensor ", Quoted(name), " is in the file, but the config has no place for it"));
    }
    return absl::OkStatus();
  }

 private:
  const std::string component_;
  const std::map<std::string, TensorView> tensors_;
  std::set<std::string> read_;
};

class RandomWeightSource : public WeightSource {
 public:
  explicit RandomWeightSource(Component component) : component_(ComponentName(component)) {}

  absl::StatusOr<at::Tensor> Read(const std::string& name, at::IntArrayRef shape) override {
    const std::string key = absl::StrCat(component_, "/", name);
    const std::string digest = Sha256Hex(key.data(), key.size());
    uint32_t seed = 0;  // The hex digits are bytes in order, so the first four are the low ones.
    for (int byte = 3; byte >= 0; --byte) {
      seed =
          seed << 8 | static_cast<uint32_t>(std::stoul(digest.substr(2 * static_cast<size_t>(byte), 2), nullptr, 16));
    }
    at::Tensor draw = NoiseStream(seed).Draw(shape);
    if (name.ends_with(".bias")) return draw.mul_(0.02);
    if (shape.size() == 1) return draw.mul_(0.1).add_(1.0);
    return draw.div_(std::sqrt(static_cast<double>(draw.numel()) / static_cast<double>(shape[0])));
  }

  absl::Status CheckAllRead() const override { return absl::OkStatus(); }

 private:
  const std::string component_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> MakeFileWeightSource(Component component, const WeightFiles& files) {
  auto tensors = CanonicalNames(component, files.Tensors());
  if (!tensors.ok()) return tensors.status();
  return std::unique_ptr<WeightSource>(std::make_unique<FileWeightSource>(component, *std::move(tensors)));
}

std::unique_ptr<WeightSource> MakeRandomWeightSource(Component component) {
  return std::make_unique<RandomWeightSource>(component);
}

at::Tensor WeightLoader::Load(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  const auto options = at::TensorOptions().device(placement_.device).dtype(dtype);
  absl::StatusOr<at::Tensor> tensor = source_->Read(name, shape);
  if (!tensor.ok()) {
    if (status_.ok()) status_ = tensor.status();
    return at::zeros({1}, options).expand(shape);
  }
  if (shape.size() == 4) return tensor->to(options).contiguous(at::MemoryFormat::ChannelsLast);
  return tensor->to(options);
}

absl::Status WeightLoader::Finish() const {
  TURBOFLEET_RETURN_IF_ERROR(status_);
  return source_->CheckAllRead();
}

}  // namespace turbofleet::sd_turbo
