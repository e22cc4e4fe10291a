// Sixteen floats that are worked on together, whatever the width of the machine's registers: one AVX-512 register, two
// of AVX2 or four of SSE and NEON. Included by level.cc only, once for each level, so everything has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "worker/engine/kernels/kernels.h"

#define TURBOFLEET_INLINE inline __attribute__((always_inline))

namespace turbofleet::kernels {
namespace {

#if defined(__AVX512BF16__)
constexpr int kRegisterLanes = 16;
#elif defined(__AVX2__)
constexpr int kRegisterLanes = 8;
#else
constexpr int kRegisterLanes = 4;
#endif

typedef float RegisterF __attribute__((vector_size(kRegisterLanes * 4)));
typedef uint32_t RegisterU __attribute__((vector_size(kRegisterLanes * 4)));
typedef int32_t RegisterI __attribute__((vector_size(kRegisterLanes * 4)));
typedef uint16_t RegisterH __attribute__((vector_size(kRegisterLanes * 2)));
typedef uint8_t RegisterB __attribute__((vector_size(kRegisterLanes)));

// Two halves that are treated alike. Operators recurse into them until they meet registers.
template <typename V>
struct Pair {
  V lo, hi;
};

#define TURBOFLEET_PAIR_OPERATOR(op)                                       \
  template <typename V>                                                    \
  TURBOFLEET_INLINE auto operator op(const Pair<V>& a, const Pair<V>& b) { \
    return Pair<decltype(a.lo op b.lo)>{a.lo op b.lo, a.hi op b.hi};       \
  }
TURBOFLEET_PAIR_OPERATOR(+)
TURBOFLEET_PAIR_OPERATOR(-)
TURBOFLEET_PAIR_OPERATOR(*)
TURBOFLEET_PAIR_OPERATOR(/)
TURBOFLEET_PAIR_OPERATOR(&)
TURBOFLEET_PAIR_OPERATOR(|)
TURBOFLEET_PAIR_OPERATOR(^)
TURBOFLEET_PAIR_OPERATOR(<)
TURBOFLEET_PAIR_OPERATOR(!=)
#undef TURBOFLEET_PAIR_OPERATOR

template <int kCount>
struct LanesOf {
  using F = Pair<typename LanesOf<kCount / 2>::F>;
  using U = Pair<typename LanesOf<kCount / 2>::U>;
  using I = Pair<typename LanesOf<kCount / 2>::I>;
};
template <>
struct LanesOf<kRegisterLanes> {
  using F = RegisterF;
  using U = RegisterU;
  using I = RegisterI;
};

constexpr int kLanes = 16;
using F = LanesOf<kLanes>::F;  // Floats.
using U = LanesOf<kLanes>::U;  // Their bits.
using I = LanesOf<kLanes>::I;  // Masks: all bits set, or none.

template <typename V>
constexpr int kLanesIn = static_cast<int>(sizeof(V) / 4);

TURBOFLEET_INLINE RegisterU BitsOf(RegisterF x) { return reinterpret_cast<RegisterU>(x); }
TURBOFLEET_INLINE RegisterF FloatOf(RegisterU x) { return reinterpret_cast<RegisterF>(x); }
TURBOFLEET_INLINE RegisterU ShiftLeft(RegisterU x, int n) { return x << n; }
TURBOFLEET_INLINE RegisterU ShiftRight(RegisterU x, int n) { return x >> n; }
TURBOFLEET_INLINE RegisterF Select(RegisterI mask, RegisterF a, RegisterF b) { return mask ? a : b; }
TURBOFLEET_INLINE RegisterU Select(RegisterI mask, RegisterU a, RegisterU b) { return mask ? a : b; }

template <typename V>
TURBOFLEET_INLINE auto BitsOf(const Pair<V>& x) {
  return Pair<decltype(BitsOf(x.lo))>{BitsOf(x.lo), BitsOf(x.hi)};
}
template <typename V>
TURBOFLEET_INLINE auto FloatOf(const Pair<V>& x) {
  return Pair<decltype(FloatOf(x.lo))>{FloatOf(x.lo), FloatOf(x.hi)};
}
template <typename V>
TURBOFLEET_INLINE Pair<V> ShiftLeft(const Pair<V>& x, int n) {
  return {ShiftLeft(x.lo, n), ShiftLeft(x.hi, n)};
}
template <typename V>
TURBOFLEET_INLINE Pair<V> ShiftRight(const Pair<V>& x, int n) {
  return {ShiftRight(x.lo, n), ShiftRight(x.hi, n)};
}
template <typename M, typename V>
TURBOFLEET_INLINE Pair<V> Select(const Pair<M>& mask, const Pair<V>& a, const Pair<V>& b) {
  return {Select(mask.lo, a.lo, b.lo), Select(mask.hi, a.hi, b.hi)};
}

template <typename V, typename S>
TURBOFLEET_INLINE V Fill(S value) {
  if constexpr (kLanesIn<V> == kRegisterLanes) {
    return value - V{};
  } else {
    const auto half = Fill<decltype(V::lo)>(value);
    return {half, half};
  }
}
TURBOFLEET_INLINE F Floats(float value) { return Fill<F>(value); }
TURBOFLEET_INLINE U Bits(uint32_t value) { return Fill<U>(value); }

TURBOFLEET_INLINE F Min(const F& a, const F& b) { return Select(b < a, b, a); }
TURBOFLEET_INLINE F Max(const F& a, const F& b) { return Select(a < b, b, a); }

// --- Memory. Pointers need no alignment. ---

TURBOFLEET_INLINE void LoadInto(RegisterF& x, const float* from) { std::memcpy(&x, from, sizeof(x)); }
TURBOFLEET_INLINE void LoadInto(RegisterF& x, const Bfloat16* from) {
  RegisterH half;
  std::memcpy(&half, from, sizeof(half));
#if defined(__AVX512BF16__)
  const RegisterU wide =
      reinterpret_cast<RegisterU>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(half)));
#elif defined(__AVX2__)
  const RegisterU wide = reinterpret_cast<RegisterU>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(half)));
#else
  const RegisterU wide = __builtin_convertvector(half, RegisterU);
#endif
  x = FloatOf(wide << 16);
}
TURBOFLEET_INLINE void StoreFrom(RegisterF x, float* to) { std::memcpy(to, &x, sizeof(x)); }
TURBOFLEET_INLINE void StoreFrom(RegisterF x, Bfloat16* to) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh(x);
  std::memcpy(to, &half, sizeof(half));
#else
  const RegisterU bits = BitsOf(x);
  const RegisterU magnitude = bits & 0x7fffffffU;
  RegisterU rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  rounded = (magnitude < 0x00800000U) ? (bits >> 31) << 15 : rounded;    // Subnormal: zero with its sign.
  rounded = (magnitude > 0x7f800000U) ? (bits >> 16) | 0x40U : rounded;  // NaN: stays one, and is quiet.
#if defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32(reinterpret_cast<__m256i>(rounded), _mm256_setzero_si256());
  const __m128i half = _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0b1000));
#else
  const RegisterH half = __builtin_convertvector(rounded, RegisterH);
#endif
  std::memcpy(to, &half, sizeof(half));
#endif
}
// Stores values between 0 and 255 that have no fraction.
TURBOFLEET_INLINE void StoreBytes(RegisterU x, uint8_t* to) {
#if defined(__AVX512BF16__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(x)));
#else
  const RegisterB bytes = __builtin_convertvector(x, RegisterB);
  std::memcpy(to, &bytes, sizeof(bytes));
#endif
}

template <typename V, typename T>
TURBOFLEET_INLINE void LoadInto(Pair<V>& x, const T* from) {
  LoadInto(x.lo, from);
  LoadInto(x.hi, from + kLanesIn<V>);
}
template <typename V, typename T>
TURBOFLEET_INLINE void StoreFrom(const Pair<V>& x, T* to) {
  StoreFrom(x.lo, to);
  StoreFrom(x.hi, to + kLanesIn<V>);
}
template <typename V>
TURBOFLEET_INLINE void StoreBytes(const Pair<V>& x, uint8_t* to) {
  StoreBytes(x.lo, to);
  StoreBytes(x.hi, to + kLanesIn<V>);
}

template <typename T>
TURBOFLEET_INLINE F Load(const T* from) {
  F x;
  LoadInto(x, from);
  return x;
}
// The first `count` lanes from memory, zero in the others. 0 < count < kLanes.
template <typename T>
F LoadSome(const T* from, int64_t count) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
  return Load(buffer);
}
template <typename T>
void StoreSome(const F& x, T* to, int64_t count) {
  T buffer[kLanes];
  StoreFrom(x, buffer);
  for (int64_t i = 0; i < count; ++i) to[i] = buffer[i];
}

// The number of lanes in use: all of them, known when compiling, or the int64_t of the last block.
struct AllLanes {};

template <typename T>
TURBOFLEET_INLINE F Load(const T* from, AllLanes) {
  return Load(from);
}
template <typename T>
TURBOFLEET_INLINE F Load(const T* from, int64_t lanes) {
  return LoadSome(from, lanes);
}
template <typename T>
TURBOFLEET_INLINE void Store(const F& x, T* to, AllLanes) {
  StoreFrom(x, to);
}
template <typename T>
TURBOFLEET_INLINE void Store(const F& x, T* to, int64_t lanes) {
  StoreSome(x, to, lanes);
}

// Calls body(index, lanes) for blocks of kLanes that cover [0, count).
template <typename Body>
TURBOFLEET_INLINE void ForLanes(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, AllLanes{});
  if (i < count) body(i, count - i);
}

// The sum of all lanes: halves are added onto each other, so the order is the same for all levels.
TURBOFLEET_INLINE float Sum(const F& x) {
  float lanes[kLanes];
  StoreFrom(x, lanes);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// --- Functions. ---

// exp(x) within 2 units in the last place for x in [-87, 88]; arguments beyond are taken as the ends of that range. NaN
// stays NaN.
TURBOFLEET_INLINE F Exp(const F& argument) {
  const F x = Min(Max(argument, Floats(-87.0F)), Floats(88.0F));
  const F magic = Floats(12582912.0F);  // 1.5 * 2^23: adding it rounds to a whole number.
  const F shifted = x * Floats(1.44269504F) + magic;
  const F n = shifted - magic;
  const F r = (x - n * Floats(0.693359375F)) - n * Floats(-2.12194440e-4F);
  F p = Floats(1.9875691500e-4F);
  p = p * r + Floats(1.3981999507e-3F);
  p = p * r + Floats(8.3334519073e-3F);
  p = p * r + Floats(4.1665795894e-2F);
  p = p * r + Floats(1.6666665459e-1F);
  p = p * r + Floats(5.0000001201e-1F);
  p = p * (r * r) + r + Floats(1.0F);
  return p * FloatOf(ShiftLeft(BitsOf(shifted) - BitsOf(magic) + Bits(127), 23));
}

TURBOFLEET_INLINE F Silu(const F& x) { return x / (Floats(1.0F) + Exp(Floats(0.0F) - x)); }

// x * (1 + erf(x / sqrt 2)) / 2. The tail of erf is that of Abramowitz and Stegun, 7.1.26, which is off by at most
// 1.5e-7; below zero it is used without a subtraction, so small results keep their digits.
TURBOFLEET_INLINE F Gelu(const F& x) {
  const F sign = FloatOf(BitsOf(x) & Bits(0x80000000U));
  const F z = FloatOf(BitsOf(x) ^ BitsOf(sign)) * Floats(0.70710678F);
  const F t = Floats(1.0F) / (Floats(1.0F) + Floats(0.3275911F) * z);
  F p = Floats(1.061405429F);
  p = p * t + Floats(-1.453152027F);
  p = p * t + Floats(1.421413741F);
  p = p * t + Floats(-0.284496736F);
  p = p * t + Floats(0.254829592F);
  const F half_tail = Floats(0.5F) * (p * t) * Exp(Floats(0.0F) - z * z);
  return x * Select(x < Floats(0.0F), half_tail, Floats(1.0F) - half_tail);
}

}  // namespace
}  // namespace turbofleet::kernels
