// Where a component's tensors come from, and how layers take them.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/sd_turbo/weight_names.h"
#include "worker/engine/weights/safetensors.h"

namespace turbofleet::sd_turbo {

// The tensors of one component. Thread-compatible.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // A CPU tensor of exactly this shape, in whatever precision it is stored. INVALID_ARGUMENT: it is missing or has
  // another shape; the message names it.
  virtual absl::StatusOr<at::Tensor> Read(const std::string& name, at::IntArrayRef shape) = 0;
  // INVALID_ARGUMENT: there is a tensor that was never read; the message names it.
  virtual absl::Status CheckAllRead() const = 0;
};

// Tensors of mapped files, which must outlive the source; tensors that were read do not depend on them.
absl::StatusOr<std::unique_ptr<WeightSource>> MakeFileWeightSource(Component component, const WeightFiles& files);

// Any tensor that is asked for, drawn at random: the same in every run and in PyTorch, so that an architecture of any
// size can be compared with diffusers without a file. The rule, which make_goldens.py repeats:
//   seed  = the first 8 bytes of SHA-256("<component>/<name>") as a little-endian number, modulo 2^32
//   draw  = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=float32)
//   names that end in ".bias"       0.02 * draw
//   other names of one dimension    1 + 0.1 * draw                   (the weights of norms)
//   all others                      draw / sqrt(elements / shape[0])
std::unique_ptr<WeightSource> MakeRandomWeightSource(Component component);

// How a component computes.
struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
};

// Hands a component's weights to its layers. The first error is kept and a tensor of zeros returned (without memory of
// its own, whatever the config asks for), so that constructors need no error handling; check Finish at the end.
class WeightLoader {
 public:
  WeightLoader(WeightSource* source, Placement placement) : source_(source), placement_(placement) {}

  // The tensor on the loader's device, convolutions (4 dimensions) with their channels last.
  at::Tensor Load(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype);

  const Placement& placement() const { return placement_; }
  // The first error, or that of a tensor that nobody asked for.
  absl::Status Finish() const;

 private:
  WeightSource* source_;
  Placement placement_;
  absl::Status status_;
};

// A loader and a prefix such as "down_blocks.0."; cheap to copy. The loader must outlive it.
class Weights {
 public:
  explicit Weights(WeightLoader* loader) : loader_(loader), placement_(loader->placement()) {}

  Weights Sub(const std::string& part) const {
    Weights result = *this;
    result.prefix_ += part + ".";
    return result;
  }
  Weights Sub(const std::string& part, size_t index) const { return Sub(part + "." + std::to_string(index)); }

  // The same place, but layers that are made from it compute in float32.
  Weights InFloat32() const {
    Weights result = *this;
    result.placement_.dtype = at::kFloat;
    return result;
  }

  at::Tensor Load(const std::string& name, at::IntArrayRef shape) const {
    return loader_->Load(prefix_ + name, shape, placement_.dtype);
  }
  const Placement& placement() const { return placement_; }

 private:
  WeightLoader* loader_;
  Placement placement_;
  std::string prefix_;
};

}  // namespace turbofleet::sd_turbo
