#include "client/cli/progress.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ProgressState State(int64_t done, int64_t total, int64_t failed = 0, absl::Duration elapsed = absl::Seconds(10)) {
  return {.total = total, .done = done, .failed = failed, .elapsed = elapsed};
}

TEST(RenderBarTest, ShowsCountBarRateAndTimeLeft) {
  EXPECT_EQ(RenderBar(State(400, 1000), 60, false), "  400/1000 [###########-----------------] 40.0/s  ETA 0:15");
  EXPECT_EQ(RenderBar(State(1000, 1000), 60, false), " 1000/1000 [##########################] 100.0/s  took 0:10");
  EXPECT_THAT(RenderBar(State(0, 8), 80, false), HasSubstr("0/8 [----------------------------------------] waiting"));
  EXPECT_THAT(RenderBar(State(1, 100, 0, absl::Seconds(100)), 80, false), HasSubstr("0.01/s  ETA 2:45:00"));
}

TEST(RenderBarTest, FitsIntoAnyTerminal) {
  for (int columns = 0; columns < 200; ++columns) {
    for (const ProgressState& state : {State(0, 0), State(0, 5), State(3, 7, 2), State(5, 5, 5),
                                       State(123'456'789, 987'654'321, 1000, absl::Hours(100))}) {
      const std::string bar = RenderBar(state, columns, false);
      EXPECT_LE(static_cast<int>(bar.size()), std::max(columns - 1, 0)) << bar;
    }
  }
}

TEST(RenderBarTest, FailuresAreShownAndColourIsOptional) {
  EXPECT_THAT(RenderBar(State(5, 9, 2), 80, false), HasSubstr("  2 failed"));
  EXPECT_THAT(RenderBar(State(5, 9, 2), 80, false), Not(HasSubstr("\x1b")));
  EXPECT_THAT(RenderBar(State(5, 9, 2), 80, true), HasSubstr("\x1b[31m  2 failed\x1b[0m"));
}

TEST(RenderLineTest, SaysTheSameInWords) {
  EXPECT_EQ(RenderLine(State(400, 1000)), "400 of 1000 images, 40.0/s, 0:15 left");
  EXPECT_EQ(RenderLine(State(10, 10, 3)), "10 of 10 images (3 failed), 1.0/s");
  EXPECT_EQ(RenderLine(State(0, 10)), "0 of 10 images");
}

TEST(MinutesTextTest, HasHoursWhereThereAreAny) {
  EXPECT_EQ(MinutesText(absl::Seconds(7)), "0:07");
  EXPECT_EQ(MinutesText(absl::Seconds(12 * 60 + 5)), "12:05");
  EXPECT_EQ(MinutesText(absl::Seconds(3 * 3600 + 1)), "3:00:01");
}

// What a log gets of a run: ten lines at most, without a single escape.
TEST(ProgressTest, ALogGetsFewPlainLines) {
  SimulatedClock clock;
  ::testing::internal::CaptureStderr();
  {
    Progress progress(ProgressStyle::kLines, &clock);
    progress.Expect(1000);
    for (int i = 0; i < 1000; ++i) {
      clock.Advance(absl::Milliseconds(10));
      progress.Done(false);
    }
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 9);
  EXPECT_THAT(log, HasSubstr("100 of 1000 images, 100.0/s, 0:09 left\n"));
  EXPECT_THAT(log, Not(HasSubstr("\x1b")));
  EXPECT_THAT(log, Not(HasSubstr("\r")));
}

TEST(ProgressTest, ATerminalGetsOneLineThatIsTakenAwayAtTheEnd) {
  SimulatedClock clock;
  ::testing::internal::CaptureStderr();
  Progress progress(ProgressStyle::kBar, &clock);
  progress.Expect(1000);
  for (int i = 0; i < 1000; ++i) {
    clock.Advance(absl::Milliseconds(1));
    progress.Done(i < 2);
  }
  progress.Note("a note");
  progress.Finish();
  progress.Finish();
  const std::string output = ::testing::internal::GetCapturedStderr();
  // Redrawn every 100 ms of the second, at its start and end, and below the note.
  EXPECT_LE(std::count(output.begin(), output.end(), '#'), 14 * 40);
  EXPECT_EQ(std::count(output.begin(), output.end(), '\n'), 1);
  EXPECT_THAT(output, HasSubstr("\r\x1b[Ka note\n"));
  EXPECT_TRUE(output.size() > 4 && output.substr(output.size() - 4) == "\r\x1b[K");
  EXPECT_EQ(progress.state().failed, 2);
  EXPECT_EQ(progress.state().elapsed, absl::Seconds(1));
}

TEST(ProgressTest, QuietSaysNothing) {
  SimulatedClock clock;
  ::testing::internal::CaptureStderr();
  {
    Progress progress(ProgressStyle::kQuiet, &clock);
    progress.Expect(10);
    for (int i = 0; i < 10; ++i) progress.Done(true);
    progress.Note("a note");
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressTest, OutputThatIsNoTerminalGetsNoBar) {
  EXPECT_EQ(ChooseProgressStyle(/*quiet=*/true), ProgressStyle::kQuiet);
  ::testing::internal::CaptureStderr();  // A file from here on.
  const ProgressStyle style = ChooseProgressStyle(/*quiet=*/false);
  ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(style, ProgressStyle::kLines);
}

}  // namespace
}  // namespace turbofleet::cli
