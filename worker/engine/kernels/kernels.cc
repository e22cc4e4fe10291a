#include "worker/engine/kernels/kernels.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "worker/engine/kernels/level_ops.h"

namespace turbofleet::kernels {
namespace {

constexpr int64_t kRowsPerPiece = 8;        // Of LayerNorm and Geglu.
constexpr int64_t kValuesPerPiece = 12288;  // Of PackRgb.

const LevelOps& OpsOf(Level level) {
#if defined(__x86_64__)
  if (level == Level::kAvx512Bf16) return avx512_bf16::kOps;
  if (level == Level::kAvx2) return avx2::kOps;
#endif
  assert(level == Level::kPortable);
  return portable::kOps;
}

template <typename T>
const TypedOps<T>& TypedOpsOf(Level level) {
  if constexpr (std::is_same_v<T, float>) {
    return OpsOf(level).f32;
  } else {
    return OpsOf(level).bf16;
  }
}

// Pixels of one block of the group norm's statistics. A function of the size alone: were it one of the number of
// threads, so would be the picture.
int64_t BlockPixels(int64_t pixels) { return std::clamp<int64_t>(pixels / 64, 8, 256); }

int64_t PiecesOf(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Merges the moments that the blocks of one image have of their channels to those of the groups, in double precision
// and in the order of the blocks, and turns them to factors. `blocks` has a row of means and one of deviations for
// each.
template <typename T>
class GroupFactors {
 public:
  GroupFactors(const GroupNormArgs<T>& args, const float* blocks)
      : args_(args), blocks_(blocks), block_pixels_(BlockPixels(args.pixels)) {}

  // Fills the channels of `group` in `factors`: rows of centers, scales and offsets.
  void Fill(int64_t group, float* factors) const {
    const int64_t size = args_.channels / args_.groups;
    const int64_t first = group * size;
    const int64_t last = first + size;
    const double total = static_cast<double>(args_.pixels) * static_cast<double>(size);
    const double mean = SumOverBlocks(first, last, [](double weight, double m, double) { return weight * m; }) / total;
    const double variance = SumOverBlocks(first, last,
                                          [mean](double weight, double m, double deviation) {
                                            return deviation + weight * (m - mean) * (m - mean);
                                          }) /
                            total;
    const double scale = 1.0 / std::sqrt(variance + static_cast<double>(args_.epsilon));
    for (int64_t c = first; c < last; ++c) {
      factors[c] = static_cast<float>(mean - Addend(c));
      factors[args_.channels + c] = static_cast<float>(scale * static_cast<double>(args_.gamma[c]));
      factors[2 * args_.channels + c] = args_.beta[c];
    }
  }

 private:
  double Addend(int64_t channel) const {
    return args_.addend == nullptr ? 0.0 : static_cast<double>(args_.addend[channel]);
  }

  // The sum of term(pixels, mean, deviation) over blocks and channels.
  template <typename Term>
  double SumOverBlocks(int64_t first, int64_t last, Term&& term) const {
    double sum = 0;
    const float* block = blocks_;
    for (int64_t p = 0; p < args_.pixels; p += block_pixels_, block += 2 * args_.channels) {
      const double weight = static_cast<double>(std::min(block_pixels_, args_.pixels - p));
      for (int64_t c = first; c < last; ++c) {
        sum += term(weight, static_cast<double>(block[c]) + Addend(c), static_cast<double>(block[args_.channels + c]));
      }
    }
    return sum;
  }

  const GroupNormArgs<T>& args_;
  const float* blocks_;
  int64_t block_pixels_;
};

}  // namespace

std::vector<Level> SupportedLevels() {
  std::vector<Level> levels = {Level::kPortable};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) levels.push_back(Level::kAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16")) {
    levels.push_back(Level::kAvx512Bf16);
  }
#endif
  return levels;
}

const char* LevelName(Level level) {
  switch (level) {
    case Level::kPortable:
      return "portable";
    case Level::kAvx2:
      return "avx2";
    case Level::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

void SerialFor(int64_t count, const std::function<void(int64_t begin, int64_t end)>& body) {
  if (count > 0) body(0, count);
}

Kernels::Kernels(Level level, ParallelFor parallel_for) : level_(level), parallel_for_(std::move(parallel_for)) {}

template <typename T>
void Kernels::GroupNorm(const GroupNormArgs<T>& args) const {
  if (args.images == 0 || args.pixels == 0 || args.channels == 0) return;
  assert(args.channels % args.groups == 0);
  const TypedOps<T>& ops = TypedOpsOf<T>(level_);
  const int64_t block_pixels = BlockPixels(args.pixels);
  const int64_t blocks = PiecesOf(args.pixels, block_pixels);
  const int64_t image_size = args.pixels * args.channels;
  std::vector<float> moments(static_cast<size_t>(args.images * blocks * 2 * args.channels));
  std::vector<float> factors(static_cast<size_t>(args.images * 3 * args.channels));

  // Where block `index` of all images starts, and its number of pixels.
  const auto block_of = [&](int64_t index) {
    const int64_t pixel = index % blocks * block_pixels;
    return std::pair(index / blocks * image_size + pixel * args.channels, std::min(block_pixels, args.pixels - pixel));
  };
  parallel_for_(args.images * blocks, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const auto [start, pixels] = block_of(index);
      float* mean = moments.data() + index * 2 * args.channels;
      ops.channel_moments(args.input + start, pixels, args.channels, mean, mean + args.channels);
    }
  });
  parallel_for_(args.images * args.groups, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / args.groups;
      GroupFactors<T>(args, moments.data() + image * blocks * 2 * args.channels)
          .Fill(index % args.groups, factors.data() + image * 3 * args.channels);
    }
  });
  parallel_for_(args.images * blocks, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const auto [start, pixels] = block_of(index);
      const float* center = factors.data() + index / blocks * 3 * args.channels;
      ops.normalize(args.input + start, args.output + start, pixels, args.channels,
                    {.center = center, .scale = center + args.channels, .offset = center + 2 * args.channels},
                    args.silu);
    }
  });
}

template <typename T>
void Kernels::LayerNorm(const LayerNormArgs<T>& args) const {
  if (args.rows == 0 || args.columns == 0) return;
  const TypedOps<T>& ops = TypedOpsOf<T>(level_);
  parallel_for_(PiecesOf(args.rows, kRowsPerPiece), [&](int64_t begin, int64_t end) {
    const int64_t row = begin * kRowsPerPiece;
    const int64_t rows = std::min(end * kRowsPerPiece, args.rows) - row;
    ops.layer_norm(args.input + row * args.columns, args.output + row * args.columns, rows, args.columns, args.gamma,
                   args.beta, args.epsilon);
  });
}

template <typename T>
void Kernels::Geglu(const GegluArgs<T>& args) const {
  if (args.rows == 0 || args.columns == 0) return;
  const TypedOps<T>& ops = TypedOpsOf<T>(level_);
  parallel_for_(PiecesOf(args.rows, kRowsPerPiece), [&](int64_t begin, int64_t end) {
    const int64_t row = begin * kRowsPerPiece;
    const int64_t rows = std::min(end * kRowsPerPiece, args.rows) - row;
    ops.geglu(args.input + row * 2 * args.columns, args.output + row * args.columns, rows, args.columns);
  });
}

template <typename T>
bool Kernels::PackRgb(const PackRgbArgs<T>& args) const {
  const int64_t count = args.pixels * 3;
  const TypedOps<T>& ops = TypedOpsOf<T>(level_);
  std::atomic<bool> finite{true};
  parallel_for_(PiecesOf(count, kValuesPerPiece), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kValuesPerPiece;
    const int64_t size = std::min(end * kValuesPerPiece, count) - first;
    if (!ops.pack_bytes(args.input + first, args.output + first, size)) finite = false;
  });
  return finite;
}

void Kernels::Interleave(const InterleaveArgs& args) const {
  const auto* input = static_cast<const uint8_t*>(args.input);
  auto* output = static_cast<uint8_t*>(args.output);
  const int64_t bytes = args.pixel_bytes;
  const int64_t source_row = (args.width + 1) * 4 * bytes;
  parallel_for_(args.images * args.height * 2, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / (2 * args.height);
      const int64_t a = row % 2;
      const int64_t y = row % (2 * args.height) / 2 + a;
      const uint8_t* from = input + (image * (args.height + 1) + y) * source_row + 2 * a * bytes;
      uint8_t* to = output + row * 2 * args.width * bytes;
      for (int64_t x = 0; x < args.width; ++x, to += 2 * bytes) {
        std::memcpy(to, from + x * 4 * bytes, static_cast<size_t>(bytes));
        std::memcpy(to + bytes, from + (x + 1) * 4 * bytes + bytes, static_cast<size_t>(bytes));
      }
    }
  });
}

#if defined(__x86_64__)
void Kernels::Attention(const AttentionArgs& args) const {
  assert(level_ == Level::kAvx512Bf16 && args.keys > 0);
  const AttentionOps& ops = avx512_bf16::kAttention;
  const int64_t padded = PiecesOf(args.head_size, 32) * 32;
  const int64_t packed_size = PiecesOf(args.keys, 32) * 32 * padded / 2;
  const int64_t heads = args.images * args.heads;
  // Keys and values of all heads, in storage that nothing clears first.
  const std::unique_ptr<uint32_t[]> packed(new uint32_t[static_cast<size_t>(heads * 2 * packed_size)]);
  parallel_for_(heads * 2, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / 2 / args.heads;
      const int64_t column = index / 2 % args.heads * args.head_size;
      uint32_t* to = packed.get() + index * packed_size;
      if (index % 2 == 0) {
        const Bfloat16* key = args.key + image * args.keys * args.key_stride + column;
        ops.pack_keys(key, args.key_stride, args.keys, args.head_size, padded, to);
      } else {
        const Bfloat16* value = args.value + image * args.keys * args.value_stride + column;
        ops.pack_values(value, args.value_stride, args.keys, args.head_size, padded, to);
      }
    }
  });
  const int64_t blocks = PiecesOf(args.queries, kAttentionQueries);
  parallel_for_(heads * blocks, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint8_t[]> workspace(new uint8_t[static_cast<size_t>(ops.workspace_bytes(padded))]);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t head = index / blocks;
      const int64_t row = index % blocks * kAttentionQueries;
      const int64_t image_row = head / args.heads * args.queries + row;
      const int64_t column = head % args.heads * args.head_size;
      ops.attend({.query = args.query + image_row * args.query_stride + column,
                  .output = args.output + image_row * args.output_stride + column,
                  .query_stride = args.query_stride,
                  .output_stride = args.output_stride,
                  .queries = std::min(kAttentionQueries, args.queries - row),
                  .keys = args.keys,
                  .size = args.head_size,
                  .padded = padded,
                  .scale = args.scale * 1.44269504F,
                  .packed_keys = packed.get() + head * 2 * packed_size,
                  .packed_values = packed.get() + (head * 2 + 1) * packed_size},
                 workspace.get());
    }
  });
}
#else
void Kernels::Attention(const AttentionArgs&) const { assert(false); }
#endif

#define TURBOFLEET_INSTANTIATE(T)                                  \
  template void Kernels::GroupNorm(const GroupNormArgs<T>&) const; \
  template void Kernels::LayerNorm(const LayerNormArgs<T>&) const; \
  template void Kernels::Geglu(const GegluArgs<T>&) const;         \
  template bool Kernels::PackRgb(const PackRgbArgs<T>&) const;
TURBOFLEET_INSTANTIATE(float)
TURBOFLEET_INSTANTIATE(Bfloat16)
#undef TURBOFLEET_INSTANTIATE

}  // namespace turbofleet::kernels
