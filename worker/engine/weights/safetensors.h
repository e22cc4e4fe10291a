// Reads weights in the safetensors format, memory-mapped.
//
// The file may come from anyone: everything is validated before a byte of it is used, and a hostile file gets an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet {

enum class DType { kFloat32, kFloat16, kBfloat16, kInt64 };

// One tensor in a mapped file. The bytes live as long as the WeightFiles they came from.
struct TensorView {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;       // Each extent >= 0; empty for a scalar.
  const std::byte* data = nullptr;  // Contiguous, row-major, little-endian; may be unaligned.
  size_t size_bytes = 0;
};

// The tensors of one component of a model: one safetensors file, or the shards that an index names.
//
// Immutable, thread-safe.
class WeightFiles {
 public:
  struct Limits {
    size_t header_bytes_max = 16 << 20;
    size_t tensors_max = 20'000;
    size_t shards_max = 100;
  };

  // Maps one file. NOT_FOUND: no such file. INVALID_ARGUMENT: not a valid safetensors file; the message names the file
  // and what is wrong with it.
  static absl::StatusOr<WeightFiles> Open(const std::string& path, const Limits& limits);

  // Finds and maps the weights of the component in `folder`: `<stem>.safetensors`, `<stem>.fp16.safetensors`, or the
  // shards of `<stem>.safetensors.index.json` or `<stem>.safetensors.index.fp16.json`, the full precision first.
  // `stem` is "model" for text encoders and "diffusion_pytorch_model" for the others. Errors as of Open; a tensor
  // that is in two shards, or in the index and not in its shard, is INVALID_ARGUMENT. A shard outside of `folder`
  // is refused (symbolic links to files, as in a hub cache, are followed).
  static absl::StatusOr<WeightFiles> OpenComponent(const std::string& folder, const std::string& stem,
                                                   const Limits& limits);

  WeightFiles(WeightFiles&&) noexcept;
  WeightFiles& operator=(WeightFiles&&) noexcept;
  ~WeightFiles();

  // By name, in order.
  const std::map<std::string, TensorView>& Tensors() const;

  // The mapped files, in the order in which they enter a digest.
  const std::vector<std::string>& Paths() const;

 private:
  struct State;
  explicit WeightFiles(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The same for one file's bytes in memory, for tests and fuzzing: what Open does after mapping. The views point into
// `bytes`. INVALID_ARGUMENT as of Open.
absl::StatusOr<std::map<std::string, TensorView>> ParseSafetensors(const std::byte* bytes, size_t size,
                                                                   const WeightFiles::Limits& limits);

}  // namespace turbofleet
