// The loops between the matrix products of the engine, on plain pointers: normalisations, activations, attention and
// the moves of pixels. Nothing of libtorch is known here, so they are tested and timed on their own.
//
// Every kernel exists once in source and is compiled for several instruction sets (Level). All levels and every way of
// splitting the work over threads give the same bits: sums run in an order that depends on the sizes alone, products
// and sums are never contracted, and bfloat16 is rounded to nearest even with subnormal numbers taken as zero.
// Attention is the exception among levels: it exists for kAvx512Bf16 only.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace turbofleet::kernels {

// The upper half of a float. Has the layout of c10::BFloat16, so pointers may be cast.
struct Bfloat16 {
  uint16_t bits;
};

// The instruction sets for which the kernels are compiled, from the one that runs everywhere upwards.
enum class Level { kPortable, kAvx2, kAvx512Bf16 };

// The levels that this machine can run, lowest first. Never empty.
std::vector<Level> SupportedLevels();

// "portable", "avx2" or "avx512_bf16".
const char* LevelName(Level level);

// Calls body(begin, end) for ranges that together cover [0, count) once each, on any threads and in any order, and
// returns when all calls have returned.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t begin, int64_t end)>& body)>;

// The whole range on the calling thread.
void SerialFor(int64_t count, const std::function<void(int64_t begin, int64_t end)>& body);

// Group normalisation of [images, pixels, channels]: each group of channels of each image gets mean 0 and variance 1,
// then gamma and beta. The variance is that of blocks, shifted by a value of their own, and merged in double precision,
// so a large mean does not eat it.
template <typename T>
struct GroupNormArgs {
  const T* input = nullptr;
  T* output = nullptr;  // May be `input`.
  int64_t images = 1;
  int64_t pixels = 0;
  int64_t channels = 0;  // A multiple of `groups`.
  int64_t groups = 32;
  const float* gamma = nullptr;   // [channels]
  const float* beta = nullptr;    // [channels]
  const float* addend = nullptr;  // Added to the input before anything else, [channels] for every image; null for none.
  float epsilon = 1e-5F;
  bool silu = false;  // Applies y / (1 + exp(-y)) to the result.
};

// Layer normalisation of each row of [rows, columns].
template <typename T>
struct LayerNormArgs {
  const T* input = nullptr;
  T* output = nullptr;  // May be `input`.
  int64_t rows = 0;
  int64_t columns = 0;
  const float* gamma = nullptr;  // [columns]
  const float* beta = nullptr;   // [columns]
  float epsilon = 1e-5F;
};

// The gated activation of a transformer's feed-forward: from rows of `2 * columns` values (first the values, then their
// gates) it makes rows of `columns`: value * gelu(gate), with the GELU that is defined by erf.
template <typename T>
struct GegluArgs {
  const T* input = nullptr;
  T* output = nullptr;  // Must not overlap `input`.
  int64_t rows = 0;
  int64_t columns = 0;
};

// Pixels in [-1, 1] to bytes: round_half_even(clamp(x * 0.5 + 0.5, 0, 1) * 255). `input` has the pixels' red, green and
// blue one after the other.
template <typename T>
struct PackRgbArgs {
  const T* input = nullptr;
  uint8_t* output = nullptr;
  int64_t pixels = 0;
};

// The second half of "nearest-neighbour 2x, then 3x3 convolution" written as one 2x2 convolution with padding 1, whose
// outputs at [height + 1, width + 1, 4 * channels] are the four sub-pixels of [2 * height, 2 * width, channels]: that
// of row parity a and column parity b of source pixel (y, x) lies at (y + a, x + b), in part 2 * a + b of the channels.
struct InterleaveArgs {
  const void* input = nullptr;
  void* output = nullptr;  // Must not overlap `input`.
  int64_t images = 1;
  int64_t height = 0;       // Of the source, before it doubles.
  int64_t width = 0;        // Likewise.
  int64_t pixel_bytes = 0;  // Bytes of one output pixel: channels times the size of an element.
};

// softmax(query * key^T * scale) * value for each image and head. Rows of all four lie `..._stride` elements apart,
// with the heads of one row beside each other, so the three inputs may be parts of one packed matrix; images follow
// each other after all rows. Scores are computed and normalised in float, weights are rounded to bfloat16.
struct AttentionArgs {
  const Bfloat16* query = nullptr;
  const Bfloat16* key = nullptr;
  const Bfloat16* value = nullptr;
  Bfloat16* output = nullptr;  // Must not overlap the inputs.
  int64_t images = 1;
  int64_t heads = 1;
  int64_t head_size = 0;
  int64_t queries = 0;
  int64_t keys = 0;  // At least 1, of which there is a value each.
  int64_t query_stride = 0;
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  int64_t output_stride = 0;
  float scale = 1.0F;  // Above 0.
};

// One set of kernels: a level and a way to run in parallel. Immutable, so any number of threads may use it at once as
// far as `parallel_for` allows that.
class Kernels {
 public:
  // REQUIRES: SupportedLevels() has `level`.
  Kernels(Level level, ParallelFor parallel_for);

  Level level() const { return level_; }

  // T is float or Bfloat16. Sizes of zero do nothing. Inputs that are not finite give results that are not finite.
  template <typename T>
  void GroupNorm(const GroupNormArgs<T>& args) const;
  template <typename T>
  void LayerNorm(const LayerNormArgs<T>& args) const;
  template <typename T>
  void Geglu(const GegluArgs<T>& args) const;
  // False when any input was NaN or infinite; the bytes of such inputs are then unspecified.
  template <typename T>
  bool PackRgb(const PackRgbArgs<T>& args) const;
  void Interleave(const InterleaveArgs& args) const;
  // REQUIRES: level() is kAvx512Bf16.
  void Attention(const AttentionArgs& args) const;

 private:
  Level level_;
  ParallelFor parallel_for_;
};

}  // namespace turbofleet::kernels
