// Weights from anyone: what the loader accepts covers the file's data exactly once, as dtype and shape say.
#include <algorithm>
#include <utility>
#include <vector>

#include "tests/fuzz/require.h"
#include "worker/engine/weights/safetensors.h"

namespace {

size_t SizeOf(turbofleet::DType dtype) {
  switch (dtype) {
    case turbofleet::DType::kFloat32:
      return 4;
    case turbofleet::DType::kInt64:
      return 8;
    default:
      return 2;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr turbofleet::WeightFiles::Limits kLimits = {.header_bytes_max = 1 << 16, .tensors_max = 100};
  const auto* const begin = reinterpret_cast<const std::byte*>(data);
  const auto tensors = turbofleet::ParseSafetensors(begin, size, kLimits);
  if (!tensors.ok()) {
    TURBOFLEET_REQUIRE(absl::IsInvalidArgument(tensors.status()) && !tensors.status().message().empty());
    return 0;
  }
  TURBOFLEET_REQUIRE(tensors->size() <= kLimits.tensors_max);
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | data[i];
  TURBOFLEET_REQUIRE(header <= size - 8 && header <= kLimits.header_bytes_max);

  std::vector<std::pair<const std::byte*, size_t>> spans;
  for (const auto& [name, view] : *tensors) {
    size_t bytes = SizeOf(view.dtype);
    for (const int64_t extent : view.shape) {
      TURBOFLEET_REQUIRE(extent >= 0);
      bytes *= static_cast<size_t>(extent);
    }
    TURBOFLEET_REQUIRE(bytes == view.size_bytes);
    spans.emplace_back(view.data, view.size_bytes);
  }
  std::sort(spans.begin(), spans.end());
  const std::byte* covered = begin + 8 + header;
  for (const auto& [from, bytes] : spans) {
    TURBOFLEET_REQUIRE(from == covered);
    covered += bytes;
  }
  TURBOFLEET_REQUIRE(covered == begin + size);
  return 0;
}
