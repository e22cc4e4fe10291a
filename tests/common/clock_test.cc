#include "common/clock.h"

#include "gtest/gtest.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet {
namespace {

TEST(SteadyClockTest, StartsNearTheWallClockAndNeverGoesBack) {
  const SteadyClock clock;
  absl::Time last = clock.Now();
  EXPECT_LT(absl::AbsDuration(last - absl::Now()), absl::Minutes(1));
  for (int i = 0; i < 10'000; ++i) {
    const absl::Time now = clock.Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(SimulatedClockTest, MovesOnlyWhenTold) {
  SimulatedClock clock;
  EXPECT_EQ(clock.Now(), absl::UnixEpoch());
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(clock.Now(), absl::UnixEpoch() + absl::Seconds(3));
}

}  // namespace
}  // namespace turbofleet
