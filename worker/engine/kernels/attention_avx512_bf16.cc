// Attention for machines with AVX-512 BF16: the scores never leave the cache, and the matrix products run on pairs of
// bfloat16. Compiled for that instruction set, so see level_ops.h for what must not be used here.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "worker/engine/kernels/level_ops.h"

namespace turbofleet::kernels {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kPanel = 32;       // Columns of a packed panel: two registers.
constexpr int64_t kTileRows = 8;     // Rows that share the loads of a panel: 16 accumulators.
constexpr int64_t kBlockKeys = 256;  // Keys between two corrections of the running sums.

static_assert(kAttentionQueries % kTileRows == 0 && kBlockKeys % kPanel == 0);

// 2^f for f in [-0.5, 0.5] within 4e-6 of the result, lowest power first.
constexpr float kExp2[5] = {0.99999926F, 0.69312181F, 0.24024745F, 0.05591786F, 0.0095701018F};

// sums[row][0..31] becomes, or with kAccumulate grows by, the product of kTileRows rows of pairs with a panel of
// `pairs` rows of 32 pairs.
template <bool kAccumulate>
inline void TileProduct(const uint32_t* rows, int64_t row_stride, const uint32_t* panel, int64_t pairs, float* sums,
                        int64_t sums_stride) {
  __m512 sum[kTileRows][2];
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < 2; ++v) {
      sum[r][v] = kAccumulate ? _mm512_loadu_ps(sums + r * sums_stride + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (int64_t p = 0; p < pairs; ++p) {
    const __m512bh right0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + p * kPanel));
    const __m512bh right1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + p * kPanel + kLanes));
    for (int r = 0; r < kTileRows; ++r) {
      const __m512bh left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(rows[r * row_stride + p])));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], left, right0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], left, right1);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(sums + r * sums_stride + v * kLanes, sum[r][v]);
  }
}

// 2^x for finite x <= 0. NaN stays NaN.
inline __m512 Exp2(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(kExp2[4]);
  for (int i = 3; i >= 0; --i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2[i]));
  return _mm512_scalef_ps(p, n);
}

// The running softmax of one row.
struct RowState {
  float maximum;
  float sum;
};

inline __mmask16 ValidLanes(int64_t count) {
  return count >= kLanes ? 0xffff : static_cast<__mmask16>((1U << count) - 1);
}

// Turns one row of scores into weights of the keys relative to the largest score so far, and updates the state. Returns
// the factor that brings what was summed before to the same scale. Lanes up to the end of the panel get weight 0.
inline float Weigh(const float* scores, int64_t keys, float scale, RowState& state, uint16_t* weights) {
  const __m512 scales = _mm512_set1_ps(scale);
  __m512 largest = _mm512_set1_ps(state.maximum);
  for (int64_t k = 0; k < keys; k += kLanes) {
    const __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + k), scales);
    largest = _mm512_mask_max_ps(largest, ValidLanes(keys - k), largest, score);
  }
  const float maximum = _mm512_reduce_max_ps(largest);
  const __m512 shift = _mm512_set1_ps(maximum);
  __m512 sum = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k < keys; k += kLanes) {
    const __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + k), scales);
    const __m512 weight = _mm512_maskz_mov_ps(ValidLanes(keys - k), Exp2(_mm512_sub_ps(score, shift)));
    sum = _mm512_add_ps(sum, weight);
    const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + k), half);
  }
  for (; k % kPanel != 0; k += kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + k), _mm256_setzero_si256());
  }
  const float correction = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(state.maximum - maximum)));
  state.sum = state.sum * correction + _mm512_reduce_add_ps(sum);
  state.maximum = maximum;
  return correction;
}

// Panels of 32 keys; in a panel, for each pair of neighbouring values of the head, that pair of all 32 keys.
void PackKeys(const Bfloat16* keys, int64_t stride, int64_t count, int64_t size, int64_t padded, uint32_t* packed) {
  const int64_t pairs = padded / 2;
  for (int64_t panel = 0; panel < count; panel += kPanel, packed += pairs * kPanel) {
    std::memset(packed, 0, static_cast<size_t>(pairs * kPanel) * sizeof(uint32_t));
    const int64_t valid = count - panel < kPanel ? count - panel : kPanel;
    for (int64_t k = 0; k < valid; ++k) {
      const Bfloat16* key = keys + (panel + k) * stride;
      for (int64_t p = 0; p < size / 2; ++p) std::memcpy(packed + p * kPanel + k, key + 2 * p, sizeof(uint32_t));
      if (size % 2 != 0) packed[size / 2 * kPanel + k] = key[size - 1].bits;
    }
  }
}

// Blocks of kBlockKeys keys; in a block, panels of 32 values of the head; in a panel, for each pair of neighbouring
// keys (up to a whole panel of keys), those values of both.
void PackValues(const Bfloat16* values, int64_t stride, int64_t count, int64_t size, int64_t padded, uint32_t* packed) {
  for (int64_t block = 0; block < count; block += kBlockKeys) {
    const int64_t left = count - block < kBlockKeys ? count - block : kBlockKeys;
    const int64_t pairs = (left + kPanel - 1) / kPanel * kPanel / 2;
    for (int64_t first = 0; first < padded; first += kPanel) {
      const int64_t valid = size - first < kPanel ? size - first : kPanel;
      for (int64_t p = 0; p < pairs; ++p, packed += kPanel) {
        const int64_t key = block + 2 * p;
        const Bfloat16* low = values + key * stride + first;
        std::memset(packed, 0, kPanel * sizeof(uint32_t));
        if (key + 1 < count) {
          for (int64_t d = 0; d < valid; ++d) {
            packed[d] = low[d].bits | static_cast<uint32_t>(low[stride + d].bits) << 16;
          }
        } else if (key < count) {
          for (int64_t d = 0; d < valid; ++d) packed[d] = low[d].bits;
        }
      }
    }
  }
}

// Where the pieces of one block's work lie.
struct Workspace {
  Workspace(void* memory, int64_t padded)
      : query(static_cast<uint32_t*>(memory)),
        scores(reinterpret_cast<float*>(query + kAttentionQueries * padded / 2)),
        weights(reinterpret_cast<uint32_t*>(scores + kAttentionQueries * kBlockKeys)),
        sums(reinterpret_cast<float*>(weights + kAttentionQueries * kBlockKeys / 2)) {}

  static int64_t Bytes(int64_t padded) {
    return kAttentionQueries * 4 * (padded / 2 + kBlockKeys + kBlockKeys / 2 + padded);
  }

  uint32_t* query;    // [queries, padded / 2] pairs.
  float* scores;      // [queries, kBlockKeys]
  uint32_t* weights;  // [queries, kBlockKeys / 2] pairs.
  float* sums;        // [queries, padded]
  RowState states[kAttentionQueries];
};

// Adds one block of keys to the running sums of `rows` queries.
void AddKeys(const AttentionBlock& block, int64_t rows, int64_t first, const uint32_t* packed_values, Workspace& work) {
  const int64_t pairs = block.padded / 2;
  const int64_t keys = block.keys - first < kBlockKeys ? block.keys - first : kBlockKeys;
  const int64_t padded_keys = (keys + kPanel - 1) / kPanel * kPanel;
  for (int64_t k = 0; k < padded_keys; k += kPanel) {
    const uint32_t* panel = block.packed_keys + (first + k) * pairs;
    for (int64_t r = 0; r < rows; r += kTileRows) {
      TileProduct<false>(work.query + r * pairs, pairs, panel, pairs, work.scores + r * kBlockKeys + k, kBlockKeys);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float correction = Weigh(work.scores + r * kBlockKeys, keys, block.scale, work.states[r],
                                   reinterpret_cast<uint16_t*>(work.weights + r * kBlockKeys / 2));
    if (correction == 1.0F) continue;
    for (int64_t d = 0; d < block.padded; d += kLanes) {
      float* sum = work.sums + r * block.padded + d;
      _mm512_storeu_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(correction)));
    }
  }
  for (int64_t d = 0; d < block.padded; d += kPanel, packed_values += padded_keys / 2 * kPanel) {
    for (int64_t r = 0; r < rows; r += kTileRows) {
      TileProduct<true>(work.weights + r * kBlockKeys / 2, kBlockKeys / 2, packed_values, padded_keys / 2,
                        work.sums + r * block.padded + d, block.padded);
    }
  }
}

void Attend(const AttentionBlock& block, void* memory) {
  Workspace work(memory, block.padded);
  const int64_t pairs = block.padded / 2;
  const int64_t rows = (block.queries + kTileRows - 1) / kTileRows * kTileRows;
  std::memset(work.query, 0, static_cast<size_t>(rows * pairs) * sizeof(uint32_t));
  std::memset(work.sums, 0, static_cast<size_t>(rows * block.padded) * sizeof(float));
  for (int64_t r = 0; r < block.queries; ++r) {
    std::memcpy(work.query + r * pairs, block.query + r * block.query_stride, static_cast<size_t>(block.size) * 2);
  }
  for (RowState& state : work.states) state = {.maximum = -3e38F, .sum = 0.0F};

  for (int64_t first = 0; first < block.keys; first += kBlockKeys) {
    AddKeys(block, rows, first, block.packed_values + first * pairs, work);
  }
  for (int64_t r = 0; r < block.queries; ++r) {
    const __m512 inverse = _mm512_set1_ps(1.0F / work.states[r].sum);
    for (int64_t d = 0; d < block.size; d += kLanes) {
      const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(work.sums + r * block.padded + d), inverse);
      _mm256_mask_storeu_epi16(block.output + r * block.output_stride + d, ValidLanes(block.size - d),
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y)));
    }
  }
}

}  // namespace

namespace avx512_bf16 {
const AttentionOps kAttention = {
    .pack_keys = &PackKeys, .pack_values = &PackValues, .attend = &Attend, .workspace_bytes = &Workspace::Bytes};
}  // namespace avx512_bf16

}  // namespace turbofleet::kernels
