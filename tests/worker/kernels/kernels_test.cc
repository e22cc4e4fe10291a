// Each kernel at each level against a plain loop in double precision, with the bound that its header or the comment
// here states, and against itself: the bits must not depend on the level, on how the work is split, or on where the
// memory happens to begin.
#include "worker/engine/kernels/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace turbofleet::kernels {
namespace {

float Widen(float x) { return x; }
float Widen(Bfloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

template <typename T>
T Narrow(double x);
template <>
float Narrow<float>(double x) {
  return static_cast<float>(x);
}
template <>
Bfloat16 Narrow<Bfloat16>(double x) {
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(x));
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// What rounding to T alone may change in a result.
template <typename T>
double Rounding(double x) {
  return std::abs(x) * (sizeof(T) == 2 ? 1.0 / 256 : 1e-7);
}

// Random values of a normal distribution in memory that starts at an odd element.
template <typename T>
struct Values {
  explicit Values(int64_t count) : storage(static_cast<size_t>(count) + 1) {}
  Values(int64_t count, uint32_t seed, double mean = 0.0, double deviation = 1.0) : Values(count) {
    std::mt19937 random(seed);
    for (T& value : storage) {
      double sum = -6.0;
      for (int i = 0; i < 12; ++i) sum += static_cast<double>(random()) / 4294967296.0;
      value = Narrow<T>(mean + deviation * sum);
    }
  }
  T* data() { return storage.data() + 1; }
  const T* data() const { return storage.data() + 1; }
  double operator[](int64_t i) const { return static_cast<double>(Widen(storage[static_cast<size_t>(i) + 1])); }
  bool operator==(const Values& other) const {
    return std::memcmp(storage.data() + 1, other.storage.data() + 1, (storage.size() - 1) * sizeof(T)) == 0;
  }

  std::vector<T> storage;
};

// Cuts the work into pieces of `grain` and runs them from the last to the first, each on a thread of its own.
ParallelFor Backwards(int64_t grain) {
  return [grain](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    std::vector<std::thread> threads;
    for (int64_t end = count; end > 0; end -= grain) {
      threads.emplace_back([&body, begin = std::max<int64_t>(0, end - grain), end] { body(begin, end); });
      if (threads.size() == 16) {
        for (std::thread& thread : threads) thread.join();
        threads.clear();
      }
    }
    for (std::thread& thread : threads) thread.join();
  };
}

// Runs `kernel` at every level and in several splits, and expects the same bits each time. Returns them.
template <typename T, typename Kernel>
Values<T> SameEverywhere(int64_t count, Kernel&& kernel) {
  Values<T> first(count);
  kernel(Kernels(Level::kPortable, SerialFor), first.data());
  for (const Level level : SupportedLevels()) {
    for (const int64_t grain : {1, 3, 1000}) {
      Values<T> again(count);
      kernel(Kernels(level, Backwards(grain)), again.data());
      EXPECT_TRUE(first == again) << LevelName(level) << ", pieces of " << grain;
    }
  }
  return first;
}

template <typename T>
class KernelsTest : public ::testing::Test {};
using Types = ::testing::Types<float, Bfloat16>;
TYPED_TEST_SUITE(KernelsTest, Types);

struct GroupNormCase {
  int64_t images, pixels, channels, groups;
  double mean = 0.5;
  bool silu = true, addend = true;
};

template <typename T>
void CheckGroupNorm(const GroupNormCase& c) {
  SCOPED_TRACE(std::to_string(c.pixels) + " x " + std::to_string(c.channels));
  const Values<T> input(c.images * c.pixels * c.channels, 1, c.mean);
  const Values<float> gamma(c.channels, 2, 1.0, 0.1), beta(c.channels, 3), addend(c.channels, 4);
  const Values<T> output = SameEverywhere<T>(c.images * c.pixels * c.channels, [&](const Kernels& kernels, T* to) {
    kernels.GroupNorm<T>({.input = input.data(),
                          .output = to,
                          .images = c.images,
                          .pixels = c.pixels,
                          .channels = c.channels,
                          .groups = c.groups,
                          .gamma = gamma.data(),
                          .beta = beta.data(),
                          .addend = c.addend ? addend.data() : nullptr,
                          .epsilon = 1e-5F,
                          .silu = c.silu});
  });
  const int64_t size = c.channels / c.groups;
  // The input loses digits to its mean before the kernel sees it as a float, and so may the result.
  const double bound = 4e-6 + 4e-7 * std::abs(c.mean);
  for (int64_t group = 0; group < c.images * c.groups; ++group) {
    const int64_t image = group / c.groups, first = group % c.groups * size;
    const auto value = [&](int64_t p, int64_t k) {
      return input[(image * c.pixels + p) * c.channels + first + k] + (c.addend ? addend[first + k] : 0.0);
    };
    double sum = 0, squares = 0;
    for (int64_t p = 0; p < c.pixels; ++p) {
      for (int64_t k = 0; k < size; ++k) sum += value(p, k);
    }
    const double mean = sum / static_cast<double>(c.pixels * size);
    for (int64_t p = 0; p < c.pixels; ++p) {
      for (int64_t k = 0; k < size; ++k) squares += (value(p, k) - mean) * (value(p, k) - mean);
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(c.pixels * size) + 1e-5);
    for (int64_t p = 0; p < c.pixels; ++p) {
      for (int64_t k = 0; k < size; ++k) {
        double y = (value(p, k) - mean) * scale * gamma[first + k] + beta[first + k];
        if (c.silu) y = y / (1.0 + std::exp(-y));
        const int64_t at = (image * c.pixels + p) * c.channels + first + k;
        ASSERT_NEAR(output[at], y, bound + Rounding<T>(y)) << "pixel " << p << " channel " << first + k;
      }
    }
  }
}

TYPED_TEST(KernelsTest, GroupNormIsThatOfDoublePrecision) {
  CheckGroupNorm<TypeParam>({.images = 1, .pixels = 64, .channels = 320, .groups = 32});
  CheckGroupNorm<TypeParam>({.images = 2, .pixels = 1024, .channels = 64, .groups = 32, .silu = false});
  CheckGroupNorm<TypeParam>({.images = 1, .pixels = 37, .channels = 20, .groups = 4, .addend = false});
  CheckGroupNorm<TypeParam>({.images = 3, .pixels = 1, .channels = 7, .groups = 1});
  CheckGroupNorm<TypeParam>({.images = 1, .pixels = 600, .channels = 150, .groups = 5});
  CheckGroupNorm<TypeParam>({.images = 1, .pixels = 5, .channels = 3, .groups = 3});
}

// E[x^2] - E[x]^2 in float would find no variance at all here.
TEST(GroupNormTest, LargeMeanKeepsTheVariance) {
  CheckGroupNorm<float>({.images = 1, .pixels = 500, .channels = 64, .groups = 8, .mean = 20000.0, .silu = false});
}

// One pixel far away from all others, first of its block: it is the value that the block's are taken relative to.
TEST(GroupNormTest, OutlierInFrontKeepsTheVariance) {
  const int64_t pixels = 512, channels = 16;
  Values<float> input(pixels * channels, 1), output(pixels * channels);
  input.data()[0] = 1e4F;
  const std::vector<float> ones(channels, 1.0F), zeros(channels, 0.0F);
  Kernels(Level::kPortable, SerialFor)
      .GroupNorm<float>({.input = input.data(),
                         .output = output.data(),
                         .pixels = pixels,
                         .channels = channels,
                         .groups = channels,
                         .gamma = ones.data(),
                         .beta = zeros.data()});
  double mean = 0, squares = 0;
  for (int64_t p = 0; p < pixels; ++p) mean += input[p * channels] / pixels;
  for (int64_t p = 0; p < pixels; ++p) squares += std::pow(input[p * channels] - mean, 2) / pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    ASSERT_NEAR(output[p * channels], (input[p * channels] - mean) / std::sqrt(squares + 1e-5), 1e-5);
  }
}

TYPED_TEST(KernelsTest, GroupNormMayOverwriteItsInput) {
  using T = TypeParam;
  const std::vector<float> ones(96, 1.0F), zeros(96, 0.0F);
  Values<T> input(100 * 96, 1), output(100 * 96);
  GroupNormArgs<T> args = {.input = input.data(),
                           .output = output.data(),
                           .pixels = 100,
                           .channels = 96,
                           .gamma = ones.data(),
                           .beta = zeros.data(),
                           .silu = true};
  const Kernels kernels(SupportedLevels().back(), Backwards(1));
  kernels.GroupNorm(args);
  args.output = input.data();
  kernels.GroupNorm(args);
  EXPECT_TRUE(input == output);
}

TYPED_TEST(KernelsTest, LayerNormIsThatOfDoublePrecision) {
  using T = TypeParam;
  for (const int64_t columns : {1, 15, 16, 17, 320, 1000}) {
    for (const double mean : {0.5, 20000.0}) {
      SCOPED_TRACE(columns);
      const int64_t rows = 21;
      const Values<T> input(rows * columns, 5, mean);
      const Values<float> gamma(columns, 6, 1.0, 0.1), beta(columns, 7);
      const Values<T> output = SameEverywhere<T>(rows * columns, [&](const Kernels& kernels, T* to) {
        kernels.LayerNorm<T>({.input = input.data(),
                              .output = to,
                              .rows = rows,
                              .columns = columns,
                              .gamma = gamma.data(),
                              .beta = beta.data()});
      });
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0, squares = 0;
        for (int64_t c = 0; c < columns; ++c) sum += input[r * columns + c];
        const double center = sum / static_cast<double>(columns);
        for (int64_t c = 0; c < columns; ++c) squares += std::pow(input[r * columns + c] - center, 2);
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(columns) + 1e-5);
        for (int64_t c = 0; c < columns; ++c) {
          const double y = (input[r * columns + c] - center) * scale * gamma[c] + beta[c];
          ASSERT_NEAR(output[r * columns + c], y, 4e-6 + Rounding<T>(y));
        }
      }
    }
  }
}

// The bound on erf is 1.5e-7, so that on value * gate * (1 + erf) / 2 is 7.5e-8 of the product, plus rounding.
TYPED_TEST(KernelsTest, GegluIsThatOfDoublePrecision) {
  using T = TypeParam;
  for (const int64_t columns : {1, 16, 31, 640}) {
    const int64_t rows = 19;
    const Values<T> input(rows * 2 * columns, 8, 0.0, 3.0);
    const Values<T> output = SameEverywhere<T>(rows * columns, [&](const Kernels& kernels, T* to) {
      kernels.Geglu<T>({.input = input.data(), .output = to, .rows = rows, .columns = columns});
    });
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const double value = input[r * 2 * columns + c], gate = input[r * 2 * columns + columns + c];
        const double y = value * gate * 0.5 * std::erfc(-gate / std::sqrt(2.0));
        ASSERT_NEAR(output[r * columns + c], y, 3e-7 * std::abs(value * gate) + Rounding<T>(y)) << value << " " << gate;
      }
    }
  }
}

TEST(GegluTest, ExtremeGatesGiveTheirLimits) {
  const std::vector<float> input = {2.0F, 2.0F, 2.0F, 2.0F, 1e30F, -1e30F, 0.0F, -100.0F};
  std::vector<float> output(4);
  for (const Level level : SupportedLevels()) {
    Kernels(level, SerialFor).Geglu<float>({.input = input.data(), .output = output.data(), .rows = 1, .columns = 4});
    EXPECT_THAT(output, ::testing::ElementsAre(2e30F, 0.0F, 0.0F, ::testing::FloatNear(0.0F, 1e-30F)));
  }
}

TYPED_TEST(KernelsTest, PackRgbRoundsHalfToEven) {
  using T = TypeParam;
  for (const int64_t pixels : {1, 16, 5000}) {
    const Values<T> input(pixels * 3, 9, 0.0, 0.8);
    std::vector<uint8_t> expected;
    for (int64_t i = 0; i < pixels * 3; ++i) {
      const float unit = std::min(1.0F, std::max(0.0F, static_cast<float>(input[i]) * 0.5F + 0.5F));
      expected.push_back(static_cast<uint8_t>(std::nearbyintf(unit * 255.0F)));
    }
    for (const Level level : SupportedLevels()) {
      std::vector<uint8_t> output(expected.size());
      const Kernels kernels(level, Backwards(1));
      EXPECT_TRUE(kernels.PackRgb<T>({.input = input.data(), .output = output.data(), .pixels = pixels}));
      EXPECT_EQ(output, expected) << LevelName(level);
    }
  }
}

// 0 lies exactly between 127 and 128, and 128 is the even one.
TEST(PackRgbTest, KnownValues) {
  const std::vector<float> input = {-1.0F, 1.0F, -7.0F, 7.0F, 0.0F, 1.0F / 255.0F};
  std::vector<uint8_t> output(6);
  for (const Level level : SupportedLevels()) {
    EXPECT_TRUE(
        Kernels(level, SerialFor).PackRgb<float>({.input = input.data(), .output = output.data(), .pixels = 2}));
    EXPECT_THAT(output, ::testing::ElementsAre(0, 255, 0, 255, 128, 128));
  }
}

TYPED_TEST(KernelsTest, PackRgbFindsTheOneBrokenValue) {
  using T = TypeParam;
  const int64_t pixels = 9001;
  for (const double broken : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                              -std::numeric_limits<double>::infinity()}) {
    for (const int64_t at : {int64_t{0}, int64_t{13000}, pixels * 3 - 1}) {
      Values<T> input(pixels * 3, 9, 0.0, 0.8);
      input.data()[at] = Narrow<T>(broken);
      std::vector<uint8_t> output(static_cast<size_t>(pixels * 3));
      for (const Level level : SupportedLevels()) {
        EXPECT_FALSE(Kernels(level, Backwards(1))
                         .PackRgb<T>({.input = input.data(), .output = output.data(), .pixels = pixels}));
      }
    }
  }
}

TYPED_TEST(KernelsTest, BrokenInputsStayBroken) {
  using T = TypeParam;
  const std::vector<float> ones(32, 1.0F), zeros(32, 0.0F);
  for (const Level level : SupportedLevels()) {
    const Kernels kernels(level, SerialFor);
    Values<T> input(40 * 32, 1), output(40 * 32);
    input.data()[5] = Narrow<T>(std::numeric_limits<double>::infinity());
    kernels.GroupNorm<T>({.input = input.data(),
                          .output = output.data(),
                          .pixels = 40,
                          .channels = 32,
                          .groups = 2,
                          .gamma = ones.data(),
                          .beta = zeros.data(),
                          .silu = true});
    EXPECT_FALSE(std::isfinite(output[0]));
    EXPECT_TRUE(std::isfinite(output[16]));
    kernels.LayerNorm<T>({.input = input.data(),
                          .output = output.data(),
                          .rows = 40,
                          .columns = 32,
                          .gamma = ones.data(),
                          .beta = zeros.data()});
    EXPECT_FALSE(std::isfinite(output[0]));
    EXPECT_TRUE(std::isfinite(output[32]));
    kernels.Geglu<T>({.input = input.data(), .output = output.data(), .rows = 40, .columns = 16});
    EXPECT_FALSE(std::isfinite(output[5]));
  }
}

// Every level takes subnormal results for zero, as the instruction of AVX-512 does, and keeps their sign.
TEST(RoundingTest, SubnormalsAreSignedZeros) {
  const std::vector<Bfloat16> input = {Narrow<Bfloat16>(1e-37), Narrow<Bfloat16>(-1e-37), Narrow<Bfloat16>(0.05),
                                       Narrow<Bfloat16>(0.05)};
  std::vector<Bfloat16> output(2);
  for (const Level level : SupportedLevels()) {
    Kernels(level, SerialFor)
        .Geglu<Bfloat16>({.input = input.data(), .output = output.data(), .rows = 1, .columns = 2});
    EXPECT_EQ(output[0].bits, 0x0000) << LevelName(level);
    EXPECT_EQ(output[1].bits, 0x8000) << LevelName(level);
  }
}

// Rounding the largest NaN upwards would make it minus zero.
TEST(RoundingTest, EveryNanStaysNan) {
  const std::vector<Bfloat16> input = {Narrow<Bfloat16>(1.0), Narrow<Bfloat16>(2.0)};
  const std::vector<float> gamma(2, std::bit_cast<float>(0x7fffffffU)), beta(2, 0.0F);
  std::vector<Bfloat16> output(2);
  for (const Level level : SupportedLevels()) {
    Kernels(level, SerialFor)
        .LayerNorm<Bfloat16>({.input = input.data(),
                              .output = output.data(),
                              .rows = 1,
                              .columns = 2,
                              .gamma = gamma.data(),
                              .beta = beta.data()});
    EXPECT_TRUE(std::isnan(Widen(output[0]))) << LevelName(level);
  }
}

// Upsampling by repetition and a 3x3 convolution, against the 2x2 convolution whose weights are sums of those of the
// 3x3 one. All numbers are small and whole, so nothing rounds and the borders must agree too.
TEST(InterleaveTest, IsTheSecondHalfOfUpsamplingAndConvolution) {
  const int h = 3, w = 5;
  std::mt19937 random(3);
  std::vector<int> source(h * w), kernel(9);
  for (int& x : source) x = static_cast<int>(random() % 10);
  for (int& x : kernel) x = static_cast<int>(random() % 10);
  const auto at = [&](int y, int x) { return y < 0 || x < 0 || y >= h || x >= w ? 0 : source[y * w + x]; };

  std::vector<float> parts((h + 1) * (w + 1) * 4);
  for (int i = 0; i < (h + 1) * (w + 1) * 4; ++i) {
    const int y = i / 4 / (w + 1), x = i / 4 % (w + 1), a = i % 4 / 2, b = i % 2;
    int sum = 0;
    for (int k = 0; k < 9; ++k) {
      // Which of the two source rows, (y - 1, y), the kernel's row meets at output parity a; likewise for columns.
      const int row = a == 0 ? (k / 3 > 0) : (k / 3 > 1);
      const int column = b == 0 ? (k % 3 > 0) : (k % 3 > 1);
      sum += kernel[k] * at(y - 1 + row, x - 1 + column);
    }
    parts[i] = static_cast<float>(sum);
  }
  std::vector<float> output(4 * h * w);
  Kernels(Level::kPortable, Backwards(1))
      .Interleave({.input = parts.data(), .output = output.data(), .height = h, .width = w, .pixel_bytes = 4});

  for (int y = 0; y < 2 * h; ++y) {
    for (int x = 0; x < 2 * w; ++x) {
      int sum = 0;
      for (int k = 0; k < 9; ++k) {
        const int yy = y + k / 3 - 1, xx = x + k % 3 - 1;
        if (yy >= 0 && xx >= 0) sum += kernel[k] * at(yy / 2, xx / 2);
      }
      EXPECT_EQ(output[y * 2 * w + x], static_cast<float>(sum)) << y << " " << x;
    }
  }
}

TEST(InterleaveTest, ImagesAndChannelsStayTogether) {
  const int64_t images = 2, h = 2, w = 3, channels = 5;
  std::vector<uint16_t> parts(images * (h + 1) * (w + 1) * 4 * channels), output(images * 4 * h * w * channels);
  for (size_t i = 0; i < parts.size(); ++i) parts[i] = static_cast<uint16_t>(i);
  Kernels(Level::kPortable, SerialFor)
      .Interleave({.input = parts.data(),
                   .output = output.data(),
                   .images = images,
                   .height = h,
                   .width = w,
                   .pixel_bytes = channels * 2});
  for (int64_t i = 0; i < static_cast<int64_t>(output.size()); ++i) {
    const int64_t c = i % channels, x = i / channels % (2 * w), y = i / channels / (2 * w) % (2 * h);
    const int64_t image = i / channels / (2 * w) / (2 * h);
    const int64_t row = image * (h + 1) + y / 2 + y % 2, column = x / 2 + x % 2;
    EXPECT_EQ(output[i], ((row * (w + 1) + column) * 4 + y % 2 * 2 + x % 2) * channels + c);
  }
}

struct AttentionCase {
  int64_t images, heads, head_size, queries, keys;
  double score_deviation = 1.0;
  double mean = 0.0;  // Of keys and values, and of queries with the other sign.
};

class AttentionTest : public ::testing::TestWithParam<AttentionCase> {};

// The weights are rounded to bfloat16, which is 1 / 512 of each at most, and so is the result.
TEST_P(AttentionTest, IsThatOfDoublePrecision) {
  if (SupportedLevels().back() != Level::kAvx512Bf16) GTEST_SKIP() << "needs AVX-512 BF16";
  const AttentionCase c = GetParam();
  const int64_t width = c.heads * c.head_size;
  const int64_t query_stride = width + 3, pair_stride = 2 * width, output_stride = width + 1;
  const Values<Bfloat16> query(c.images * c.queries * query_stride, 1, -c.mean, c.score_deviation);
  const Values<Bfloat16> pairs(c.images * c.keys * pair_stride, 2, c.mean);
  const float scale = 1.0F / std::sqrt(static_cast<float>(c.head_size));
  const auto attend = [&](const ParallelFor& parallel_for, Values<Bfloat16>& output) {
    Kernels(Level::kAvx512Bf16, parallel_for)
        .Attention({.query = query.data(),
                    .key = pairs.data(),
                    .value = pairs.data() + width,
                    .output = output.data(),
                    .images = c.images,
                    .heads = c.heads,
                    .head_size = c.head_size,
                    .queries = c.queries,
                    .keys = c.keys,
                    .query_stride = query_stride,
                    .key_stride = pair_stride,
                    .value_stride = pair_stride,
                    .output_stride = output_stride,
                    .scale = scale});
  };
  Values<Bfloat16> output(c.images * c.queries * output_stride), again(c.images * c.queries * output_stride);
  attend(SerialFor, output);
  attend(Backwards(1), again);
  EXPECT_TRUE(output == again);

  for (int64_t row = 0; row < c.images * c.queries; row += 7) {
    for (int64_t head = 0; head < c.heads; ++head) {
      const int64_t first_key = row / c.queries * c.keys;
      std::vector<double> weights;
      double largest = -1e300, sum = 0;
      for (int64_t k = 0; k < c.keys; ++k) {
        double score = 0;
        for (int64_t d = 0; d < c.head_size; ++d) {
          score += query[row * query_stride + head * c.head_size + d] *
                   pairs[(first_key + k) * pair_stride + head * c.head_size + d];
        }
        weights.push_back(score * static_cast<double>(scale));
        largest = std::max(largest, weights.back());
      }
      for (double& weight : weights) sum += weight = std::exp(weight - largest);
      for (int64_t d = 0; d < c.head_size; ++d) {
        double y = 0, magnitude = 0;
        for (int64_t k = 0; k < c.keys; ++k) {
          const double value = pairs[(first_key + k) * pair_stride + width + head * c.head_size + d];
          y += weights[static_cast<size_t>(k)] * value / sum;
          magnitude += weights[static_cast<size_t>(k)] * std::abs(value) / sum;
        }
        ASSERT_NEAR(output[row * output_stride + head * c.head_size + d], y, magnitude / 500 + std::abs(y) / 500)
            << "row " << row << " head " << head << " value " << d;
      }
    }
  }
  EXPECT_EQ(output[width], 0.0) << "the gap between two rows is nobody's";
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    ::testing::Values(
        AttentionCase{.images = 1, .heads = 2, .head_size = 64, .queries = 64, .keys = 77},
        AttentionCase{.images = 2, .heads = 1, .head_size = 64, .queries = 130, .keys = 600},
        AttentionCase{.images = 1, .heads = 3, .head_size = 7, .queries = 9, .keys = 5},
        AttentionCase{.images = 1, .heads = 1, .head_size = 16, .queries = 3, .keys = 1},
        // All scores far below those of the lanes that fill up the last panel.
        AttentionCase{.images = 1, .heads = 1, .head_size = 64, .queries = 8, .keys = 70, .mean = 6.0},
        AttentionCase{.images = 1, .heads = 1, .head_size = 80, .queries = 17, .keys = 288},
        AttentionCase{.images = 1, .heads = 1, .head_size = 512, .queries = 70, .keys = 300},
        // Sharp softmax: the running maximum moves between blocks of keys.
        AttentionCase{.images = 1, .heads = 2, .head_size = 32, .queries = 65, .keys = 1030, .score_deviation = 8.0}));

TEST(BrokenAttentionTest, BrokenInputsStayBroken) {
  if (SupportedLevels().back() != Level::kAvx512Bf16) GTEST_SKIP() << "needs AVX-512 BF16";
  for (const double broken : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    Values<Bfloat16> input(40 * 32, 1), output(40 * 32);
    input.data()[3] = Narrow<Bfloat16>(broken);
    Kernels(Level::kAvx512Bf16, SerialFor)
        .Attention({.query = input.data(),
                    .key = input.data(),
                    .value = input.data(),
                    .output = output.data(),
                    .head_size = 32,
                    .queries = 40,
                    .keys = 40,
                    .query_stride = 32,
                    .key_stride = 32,
                    .value_stride = 32,
                    .output_stride = 32});
    EXPECT_FALSE(std::isfinite(output[0]));
    EXPECT_FALSE(std::isfinite(output[32 + 3]));
  }
}

TEST(EmptyTest, EmptyWorkDoesNothing) {
  const Kernels kernels(Level::kPortable, SerialFor);
  kernels.GroupNorm<float>({});
  kernels.LayerNorm<float>({});
  kernels.Geglu<float>({});
  kernels.Interleave({});
  EXPECT_TRUE(kernels.PackRgb<float>({}));
}

TEST(LevelTest, PortableIsAlwaysThere) {
  EXPECT_EQ(SupportedLevels().front(), Level::kPortable);
  EXPECT_STREQ(LevelName(Level::kPortable), "portable");
}

}  // namespace
}  // namespace turbofleet::kernels
