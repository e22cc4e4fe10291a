// Times the kernels of the engine against the loops that one would write first, on one thread, at sizes of SD-Turbo.
// The two run in turns, so a busy machine slows both; the ratio of processor times is what to read. Run:
// kernels_benchmark [rounds]
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "worker/engine/kernels/kernels.h"

namespace turbofleet::kernels {
namespace {

float Widen(Bfloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
Bfloat16 Narrow(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

std::vector<Bfloat16> Random(int64_t count) {
  std::mt19937 random(1);
  std::vector<Bfloat16> values(static_cast<size_t>(count));
  for (Bfloat16& value : values) value = Narrow(static_cast<float>(random()) / 2147483648.0F - 1.0F);
  return values;
}

void PlainGroupNorm(const GroupNormArgs<Bfloat16>& args) {
  const int64_t size = args.channels / args.groups;
  for (int64_t group = 0; group < args.groups; ++group) {
    double sum = 0, squares = 0;
    for (int64_t p = 0; p < args.pixels; ++p) {
      for (int64_t c = group * size; c < (group + 1) * size; ++c) {
        const double x = Widen(args.input[p * args.channels + c]);
        sum += x;
        squares += x * x;
      }
    }
    const double total = static_cast<double>(args.pixels * size);
    const double mean = sum / total;
    const float scale = static_cast<float>(1.0 / std::sqrt(squares / total - mean * mean + 1e-5));
    for (int64_t p = 0; p < args.pixels; ++p) {
      for (int64_t c = group * size; c < (group + 1) * size; ++c) {
        const int64_t at = p * args.channels + c;
        const float y = (Widen(args.input[at]) - static_cast<float>(mean)) * scale * args.gamma[c] + args.beta[c];
        args.output[at] = Narrow(y / (1.0F + std::exp(-y)));
      }
    }
  }
}

void PlainGeglu(const GegluArgs<Bfloat16>& args) {
  for (int64_t i = 0; i < args.rows * args.columns; ++i) {
    const Bfloat16* row = args.input + i / args.columns * 2 * args.columns + i % args.columns;
    const float gate = Widen(row[args.columns]);
    args.output[i] = Narrow(Widen(row[0]) * gate * 0.5F * std::erfc(-gate * 0.70710678F));
  }
}

void PlainAttention(const AttentionArgs& args) {
  std::vector<float> weights(static_cast<size_t>(args.keys)), sums(static_cast<size_t>(args.head_size));
  for (int64_t i = 0; i < args.queries * args.heads; ++i) {
    const int64_t column = i % args.heads * args.head_size;
    float largest = -1e30F, total = 0;
    for (int64_t k = 0; k < args.keys; ++k) {
      float score = 0;
      for (int64_t d = column; d < column + args.head_size; ++d) {
        score += Widen(args.query[i / args.heads * args.query_stride + d]) * Widen(args.key[k * args.key_stride + d]);
      }
      weights[k] = score * args.scale;
      largest = std::max(largest, weights[k]);
    }
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (int64_t k = 0; k < args.keys; ++k) {
      const float weight = std::exp(weights[k] - largest);
      total += weight;
      for (int64_t d = 0; d < args.head_size; ++d) {
        sums[d] += weight * Widen(args.value[k * args.value_stride + column + d]);
      }
    }
    for (int64_t d = 0; d < args.head_size; ++d) {
      args.output[i / args.heads * args.output_stride + column + d] = Narrow(sums[d] / total);
    }
  }
}

// Processor time of this thread, from which other programs take nothing but cache.
double Now() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

double Milliseconds(const std::function<void()>& work) {
  const double start = Now();
  work();
  return Now() - start;
}

// Prints the medians of both and the median, smallest and largest of the rounds' ratios.
void Compare(const char* name, int rounds, const std::function<void()>& kernel, const std::function<void()>& plain) {
  std::vector<double> kernels, plains, ratios;
  kernel();
  for (int round = 0; round < rounds; ++round) {
    kernels.push_back(Milliseconds(kernel));
    plains.push_back(Milliseconds(plain));
    ratios.push_back(plains.back() / kernels.back());
  }
  for (auto* values : {&kernels, &plains, &ratios}) std::sort(values->begin(), values->end());
  std::printf("%-44s %9.3f ms  plain %10.3f ms  ratio %6.1f (%.1f to %.1f)\n", name, kernels[rounds / 2],
              plains[rounds / 2], ratios[rounds / 2], ratios.front(), ratios.back());
}

void Run(int rounds) {
  const Level level = SupportedLevels().back();
  const Kernels kernels(level, SerialFor);
  std::printf("level %s, one thread, %d rounds\n", LevelName(level), rounds);
  const std::vector<float> ones(2560, 1.0F), zeros(2560, 0.0F);
  struct Map {
    const char* name;
    int64_t pixels, channels;
  };
  for (const Map& map :
       {Map{"group norm + SiLU, 64x64x320", 4096, 320}, Map{"group norm + SiLU, 512x512x128", 262144, 128}}) {
    const std::vector<Bfloat16> input = Random(map.pixels * map.channels);
    std::vector<Bfloat16> output(input.size());
    const GroupNormArgs<Bfloat16> args = {.input = input.data(),
                                          .output = output.data(),
                                          .pixels = map.pixels,
                                          .channels = map.channels,
                                          .gamma = ones.data(),
                                          .beta = zeros.data(),
                                          .silu = true};
    Compare(map.name, rounds, [&] { kernels.GroupNorm(args); }, [&] { PlainGroupNorm(args); });
  }
  {
    const std::vector<Bfloat16> input = Random(4096 * 2560);
    std::vector<Bfloat16> output(4096 * 1280);
    const GegluArgs<Bfloat16> args = {.input = input.data(), .output = output.data(), .rows = 4096, .columns = 1280};
    Compare("GEGLU, 4096 x 1280", rounds, [&] { kernels.Geglu(args); }, [&] { PlainGeglu(args); });
  }
  if (level != Level::kAvx512Bf16) return;
  const std::vector<Bfloat16> input = Random(4096 * 3 * 320);
  std::vector<Bfloat16> output(4096 * 320);
  const AttentionArgs args = {.query = input.data(),
                              .key = input.data() + 320,
                              .value = input.data() + 640,
                              .output = output.data(),
                              .heads = 5,
                              .head_size = 64,
                              .queries = 4096,
                              .keys = 4096,
                              .query_stride = 960,
                              .key_stride = 960,
                              .value_stride = 960,
                              .output_stride = 320,
                              .scale = 0.125F};
  Compare(
      "attention, 5 heads, 4096 x 4096 x 64", rounds, [&] { kernels.Attention(args); }, [&] { PlainAttention(args); });
}

}  // namespace
}  // namespace turbofleet::kernels

int main(int argc, char** argv) {
  turbofleet::kernels::Run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 5);
  return 0;
}
