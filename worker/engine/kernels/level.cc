// The loops of the kernels. Compiled once for each level, with TURBOFLEET_KERNEL_LEVEL naming it.
#include "worker/engine/kernels/lanes.h"
#include "worker/engine/kernels/level_ops.h"

namespace turbofleet::kernels {
namespace {

#if defined(__AVX512BF16__)
constexpr int kMomentVectors = 8;  // Three registers each: 24 of 32.
#else
constexpr int kMomentVectors = 1;
#endif

// The moments of kVectors * kLanes neighbouring channels in one walk. Values are taken relative to those of the first
// pixel: one of the values themselves lies near enough to the mean for the subtraction at the end to lose nothing.
template <int kVectors, typename T, typename N>
TURBOFLEET_INLINE void MomentsOf(const T* input, int64_t pixels, int64_t channels, N lanes, float* mean,
                                 float* deviation) {
  F shift[kVectors], sum[kVectors], squares[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    shift[v] = Load(input + v * kLanes, lanes);
    sum[v] = Floats(0.0F);
    squares[v] = Floats(0.0F);
  }
  for (int64_t p = 1; p < pixels; ++p) {
    const T* row = input + p * channels;
    for (int v = 0; v < kVectors; ++v) {
      const F d = Load(row + v * kLanes, lanes) - shift[v];
      sum[v] = sum[v] + d;
      squares[v] = squares[v] + d * d;
    }
  }
  const F inverse = Floats(1.0F / static_cast<float>(pixels));
  for (int v = 0; v < kVectors; ++v) {
    const F offset = sum[v] * inverse;
    Store(shift[v] + offset, mean + v * kLanes, lanes);
    Store(Max(squares[v] - sum[v] * offset, Floats(0.0F)), deviation + v * kLanes, lanes);
  }
}

template <typename T>
void ChannelMoments(const T* input, int64_t pixels, int64_t channels, float* mean, float* deviation) {
  constexpr int64_t kTile = kMomentVectors * kLanes;
  int64_t c = 0;
  for (; c + kTile <= channels; c += kTile) {
    MomentsOf<kMomentVectors>(input + c, pixels, channels, AllLanes{}, mean + c, deviation + c);
  }
  ForLanes(channels - c, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
    MomentsOf<1>(input + c + i, pixels, channels, lanes, mean + c + i, deviation + c + i);
  });
}

template <bool kSilu, int kRows, typename T>
TURBOFLEET_INLINE void NormalizeRows(const T* input, T* output, int64_t channels, const ChannelFactors factors) {
  ForLanes(channels, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
    const F center = Load(factors.center + c, lanes);
    const F scale = Load(factors.scale + c, lanes);
    const F offset = Load(factors.offset + c, lanes);
    for (int row = 0; row < kRows; ++row) {
      F y = (Load(input + row * channels + c, lanes) - center) * scale + offset;
      if constexpr (kSilu) y = Silu(y);
      Store(y, output + row * channels + c, lanes);
    }
  });
}

template <bool kSilu, typename T>
void NormalizeAll(const T* input, T* output, int64_t pixels, int64_t channels, const ChannelFactors factors) {
  constexpr int kRows = 4;  // Rows that share one load of the factors.
  int64_t p = 0;
  for (; p + kRows <= pixels; p += kRows) {
    NormalizeRows<kSilu, kRows>(input + p * channels, output + p * channels, channels, factors);
  }
  for (; p < pixels; ++p) NormalizeRows<kSilu, 1>(input + p * channels, output + p * channels, channels, factors);
}

template <typename T>
void Normalize(const T* input, T* output, int64_t pixels, int64_t channels, const ChannelFactors& factors, bool silu) {
  if (silu) {
    NormalizeAll<true>(input, output, pixels, channels, factors);
  } else {
    NormalizeAll<false>(input, output, pixels, channels, factors);
  }
}

// Lanes beyond `lanes` set to zero.
TURBOFLEET_INLINE F Keep(const F& x, AllLanes) { return x; }
TURBOFLEET_INLINE F Keep(const F& x, int64_t lanes) {
  float buffer[kLanes];
  StoreFrom(x, buffer);
  return LoadSome(buffer, lanes);
}

template <typename T>
void LayerNorm(const T* input, T* output, int64_t rows, int64_t columns, const float* gamma, const float* beta,
               float epsilon) {
  const float count = static_cast<float>(columns);
  for (int64_t r = 0; r < rows; ++r, input += columns, output += columns) {
    F sum = Floats(0.0F);
    ForLanes(columns,
             [&](int64_t c, auto lanes) __attribute__((always_inline)) { sum = sum + Load(input + c, lanes); });
    const F guess = Floats(Sum(sum) / count);
    // A first mean may be off by a rounding error of its own; the deviations from it tell by how much.
    F error = Floats(0.0F);
    F squares = Floats(0.0F);
    ForLanes(columns, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
      const F d = Keep(Load(input + c, lanes) - guess, lanes);
      error = error + d;
      squares = squares + d * d;
    });
    const float offset = Sum(error) / count;
    const float variance = Sum(squares) / count - offset * offset;
    const F scale = Floats(1.0F / __builtin_sqrtf((variance > 0.0F ? variance : 0.0F * variance) + epsilon));
    ForLanes(columns, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
      const F y = ((Load(input + c, lanes) - guess) - Floats(offset)) * scale;
      Store(y * Load(gamma + c, lanes) + Load(beta + c, lanes), output + c, lanes);
    });
  }
}

template <typename T>
void Geglu(const T* input, T* output, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, input += 2 * columns, output += columns) {
    ForLanes(columns, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
      Store(Load(input + c, lanes) * Gelu(Load(input + columns + c, lanes)), output + c, lanes);
    });
  }
}

template <typename T>
bool PackBytes(const T* input, uint8_t* output, int64_t count) {
  U broken = Bits(0);
  ForLanes(count, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
    const F x = Load(input + i, lanes);
    // x - x is zero for finite x and NaN for all others.
    const F zero = x - x;
    broken = broken | BitsOf(zero);
    const F unit = Min(Max(x * Floats(0.5F) + Floats(0.5F), Floats(0.0F)), Floats(1.0F));
    const F magic = Floats(8388608.0F);  // 2^23: adding it rounds half to even and leaves the number in the low bits.
    const U bytes = BitsOf(unit * Floats(255.0F) + magic) & Bits(0xffU);
    if constexpr (__is_same(decltype(lanes), AllLanes)) {
      StoreBytes(bytes, output + i);
    } else {
      uint8_t buffer[kLanes];
      StoreBytes(bytes, buffer);
      for (int64_t k = 0; k < lanes; ++k) output[i + k] = buffer[k];
    }
  });
  uint32_t bits[kLanes];
  std::memcpy(bits, &broken, sizeof(bits));
  uint32_t any = 0;
  for (uint32_t b : bits) any |= b;
  return (any & 0x7fffffffU) == 0;
}

template <typename T>
constexpr TypedOps<T> kTypedOps = {.channel_moments = &ChannelMoments<T>,
                                   .normalize = &Normalize<T>,
                                   .layer_norm = &LayerNorm<T>,
                                   .geglu = &Geglu<T>,
                                   .pack_bytes = &PackBytes<T>};

}  // namespace

namespace TURBOFLEET_KERNEL_LEVEL {
const LevelOps kOps = {.f32 = kTypedOps<float>, .bf16 = kTypedOps<Bfloat16>};
}  // namespace TURBOFLEET_KERNEL_LEVEL

}  // namespace turbofleet::kernels
