// The parts of which the scheduler is made.
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/cost_model.h"
#include "coordinator/scheduler/fair_clock.h"
#include "coordinator/scheduler/image_ranges.h"
#include "gtest/gtest.h"
#include "tests/coordinator/scheduler_fixture.h"

namespace turbofleet {
namespace {

// Held against a map that has every index.
TEST(ImageRangesTest, RangesAreASetOfIndexesWithTheirTimes) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937 random(seed);
    ImageRanges ranges;
    std::map<int32_t, absl::Time> indexes;
    for (int step = 0; step < 200; ++step) {
      const auto first = static_cast<int32_t>(random() % 100);
      const auto count = static_cast<int32_t>(1 + random() % 10);
      const auto after = indexes.lower_bound(first);
      const bool is_free = after == indexes.end() || after->first >= first + count;
      if (random() % 2 == 0 && is_free) {
        const absl::Time since = At(static_cast<double>(random() % 3));
        ranges.Add(first, count, since);
        for (int32_t i = first; i < first + count; ++i) indexes[i] = since;
      } else if (random() % 2 == 0) {
        int64_t removed = 0;
        for (int32_t i = first; i < first + count; ++i) removed += static_cast<int64_t>(indexes.erase(i));
        ASSERT_EQ(ranges.Remove(first, count), removed);
      } else if (!indexes.empty()) {
        const ImageRanges::First front = ranges.first();
        ASSERT_EQ(front.index, indexes.begin()->first);
        for (int32_t i = front.index; i < front.index + front.count; ++i) ASSERT_EQ(indexes.at(i), front.since);
        const auto beyond = indexes.find(front.index + front.count);
        ASSERT_TRUE(beyond == indexes.end() || beyond->second != front.since);
        const auto taken = static_cast<int32_t>(1 + random() % static_cast<uint32_t>(front.count));
        ranges.PopFront(taken);
        for (int32_t i = 0; i < taken; ++i) indexes.erase(indexes.begin());
      }
      ASSERT_EQ(ranges.size(), static_cast<int64_t>(indexes.size()));
      ASSERT_EQ(ranges.empty(), indexes.empty());
      for (int32_t i = 0; i < 110; ++i) ASSERT_EQ(ranges.Contains(i), indexes.contains(i)) << i;
    }
  }
}

TEST(CostModelTest, TheFirstGuessIsInProportionToPixelsAndSteps) {
  const CostModel costs;
  EXPECT_FALSE(costs.measured());
  EXPECT_EQ(costs.Predict(Square(512, 1)), 4 * costs.Predict(Square(256, 1)));
  EXPECT_EQ(2 * costs.Predict(Square(512, 3)), 4 * costs.Predict(Square(512, 1)));
  BatchShape late = Square(512, 4);
  late.first_step = 3;
  EXPECT_EQ(costs.Predict(late), costs.Predict(Square(512, 1)));
}

TEST(CostModelTest, AnUnknownShapeFollowsThePaceOfKnownOnes) {
  CostModel costs;
  WorkerSpeed speed;
  costs.Learn(Square(512, 1), absl::Milliseconds(40), &speed);
  EXPECT_TRUE(costs.measured());
  EXPECT_EQ(costs.Predict(Square(512, 1)), 40'000'000);
  EXPECT_EQ(costs.Predict(Square(256, 1)), 10'000'000);
  costs.Learn(Square(512, 1), absl::ZeroDuration(), &speed);
  costs.Learn(Square(512, 1), absl::InfiniteDuration(), &speed);
  EXPECT_EQ(costs.Predict(Square(512, 1)), 40'000'000);
}

TEST(CostModelTest, ShapesAndSpeedsAreLearntTogether) {
  CostModel costs;
  std::vector<WorkerSpeed> speeds(3);
  const std::vector<double> slowness = {1.0, 2.5, 10.0};
  const std::map<int32_t, double> milliseconds = {{64, 3.0}, {128, 7.0}, {512, 200.0}};
  std::mt19937 random(1);
  for (int i = 0; i < 3'000; ++i) {
    const size_t worker = random() % 3;
    const auto& [side, time] = *std::next(milliseconds.begin(), random() % 3);
    const double noise = 0.95 + 0.1 * static_cast<double>(random() % 1'000) / 1'000.0;
    costs.Learn(Square(side), absl::Milliseconds(time * slowness[worker] * noise), &speeds[worker]);
  }
  for (size_t worker = 0; worker < 3; ++worker) {
    for (const auto& [side, time] : milliseconds) {
      const double predicted = static_cast<double>(speeds[worker].Nanoseconds(costs.Predict(Square(side)))) / 1e6;
      EXPECT_NEAR(predicted / (time * slowness[worker]), 1.0, 0.1) << worker << " " << side;
    }
  }
}

TEST(CostModelTest, OnlySoManyShapesAreKept) {
  CostModel costs;
  WorkerSpeed speed;
  for (int32_t i = 1; i <= 2'000; ++i) costs.Learn(Square(i), absl::Milliseconds(1), &speed);
  EXPECT_EQ(costs.Predict(Square(2'000)), 1'000'000);
  EXPECT_NE(costs.Predict(Square(1)), 1'000'000);
}

TEST(FairClockTest, WhoeverComesBackIsLevelAndStillOwesWhatItHad) {
  FairClock clock;
  constexpr int64_t kNever = INT64_MAX;
  EXPECT_EQ(clock.Serve(0, 100, 2.0), 50);
  EXPECT_EQ(clock.now(), 0);
  EXPECT_EQ(clock.Serve(50, 100, 1.0), 150);
  EXPECT_EQ(clock.now(), 50);
  EXPECT_EQ(clock.Level(0, kNever), 50);
  EXPECT_EQ(clock.Level(150, kNever), 150);
  EXPECT_EQ(clock.Level(0, 20), 20);
  EXPECT_EQ(clock.Serve(20, 10, 1.0), 30);
  EXPECT_EQ(clock.now(), 50);
}

TEST(FairClockTest, NobodySavesUpMoreThanTheLagThatIsAllowed) {
  FairClock clock;
  clock.Serve(100 * FairClock::kLagMax, 1, 1.0);
  EXPECT_EQ(clock.Serve(0, 1, 1.0), 99 * FairClock::kLagMax + 1);
  EXPECT_EQ(clock.Serve(0, 2, 2.0), 100 * FairClock::kLagMax - FairClock::kLagMax / 2 + 1);
}

}  // namespace
}  // namespace turbofleet
