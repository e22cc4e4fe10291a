// What each level of the kernels provides: functions that work through one piece on the calling thread. Internal to
// this folder. Only plain types cross this seam, and no inline function of the standard library is used behind it: the
// linker keeps one copy of such a function, and it could be the one compiled for an instruction set that the machine
// lacks.
#pragma once

#include <cstdint>

#include "worker/engine/kernels/kernels.h"

namespace turbofleet::kernels {

// Per-channel factors of a normalisation: y = (x - center) * scale + offset.
struct ChannelFactors {
  const float* center = nullptr;
  const float* scale = nullptr;
  const float* offset = nullptr;
};

template <typename T>
struct TypedOps {
  // Mean and sum of squared deviations of each channel over `pixels` rows of `channels`.
  void (*channel_moments)(const T* input, int64_t pixels, int64_t channels, float* mean, float* deviation);
  void (*normalize)(const T* input, T* output, int64_t pixels, int64_t channels, const ChannelFactors& factors,
                    bool silu);
  void (*layer_norm)(const T* input, T* output, int64_t rows, int64_t columns, const float* gamma, const float* beta,
                     float epsilon);
  void (*geglu)(const T* input, T* output, int64_t rows, int64_t columns);
  bool (*pack_bytes)(const T* input, uint8_t* output, int64_t count);  // True when all inputs were finite.
};

struct LevelOps {
  TypedOps<float> f32;
  TypedOps<Bfloat16> bf16;
};

constexpr int64_t kAttentionQueries = 64;  // Most queries of one AttentionBlock.

// Some queries of one head, all keys and values of which are packed.
struct AttentionBlock {
  const Bfloat16* query = nullptr;
  Bfloat16* output = nullptr;
  int64_t query_stride = 0;
  int64_t output_stride = 0;
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t size = 0;    // Of a head.
  int64_t padded = 0;  // `size`, rounded up to a multiple of 32.
  float scale = 1.0F;  // Times log2(e).
  const uint32_t* packed_keys = nullptr;
  const uint32_t* packed_values = nullptr;
};

// Packed keys take `count`, rounded up to a multiple of 32, times `padded` elements, and so do packed values.
struct AttentionOps {
  void (*pack_keys)(const Bfloat16* keys, int64_t stride, int64_t count, int64_t size, int64_t padded,
                    uint32_t* packed);
  void (*pack_values)(const Bfloat16* values, int64_t stride, int64_t count, int64_t size, int64_t padded,
                      uint32_t* packed);
  void (*attend)(const AttentionBlock& block, void* memory);  // `memory` has workspace_bytes(padded) bytes.
  int64_t (*workspace_bytes)(int64_t padded);
};

namespace portable {
extern const LevelOps kOps;
}
namespace avx2 {
extern const LevelOps kOps;
}
namespace avx512_bf16 {
extern const LevelOps kOps;
extern const AttentionOps kAttention;
}  // namespace avx512_bf16

}  // namespace turbofleet::kernels
