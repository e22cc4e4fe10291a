#include "client/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace turbofleet::cli {
namespace {

constexpr absl::Duration kRedrawInterval = absl::Milliseconds(100);
constexpr int kBarColumnsMax = 40;
constexpr int kBarColumnsMin = 5;

std::string GetEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

double RateOf(const ProgressState& state) {
  const double seconds = absl::ToDoubleSeconds(state.elapsed);
  return seconds > 0 ? static_cast<double>(state.done) / seconds : 0;
}

std::string RateText(const ProgressState& state) {
  const double rate = RateOf(state);
  // A picture that takes minutes still has a rate.
  if (rate > 0 && rate < 0.1) return absl::StrFormat("%.2g/s", rate);
  return absl::StrFormat("%.1f/s", rate);
}

absl::Duration TimeLeft(const ProgressState& state) {
  return absl::Seconds(static_cast<double>(state.total - state.done) / RateOf(state));
}

int TerminalColumns() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

std::string MinutesText(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration + absl::Milliseconds(500));
  if (seconds >= 3600) return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
  return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
}

std::string RenderBar(const ProgressState& state, int columns, bool color) {
  const std::string count = absl::StrFormat("%*d/%d", absl::StrCat(state.total).size(), state.done, state.total);
  std::string tail;
  if (state.done == 0) {
    tail = "waiting for the first image";
  } else if (state.done < state.total) {
    tail = absl::StrCat(RateText(state), "  ETA ", MinutesText(TimeLeft(state)));
  } else {
    tail = absl::StrCat(RateText(state), "  took ", MinutesText(state.elapsed));
  }
  const std::string failed = state.failed == 0 ? "" : absl::StrCat("  ", state.failed, " failed");
  // The last column stays free: some terminals wrap as soon as it is written.
  const int room = columns - 1 - static_cast<int>(count.size() + tail.size() + failed.size()) - 6;
  std::string bar;
  if (room >= kBarColumnsMin) {
    const int width = std::min(room, kBarColumnsMax);
    const auto full = static_cast<int>(state.total > 0 ? state.done * width / state.total : 0);
    bar = absl::StrCat(" [", std::string(full, '#'), std::string(width - full, '-'), "]");
  }
  std::string line = absl::StrCat(" ", count, bar, " ", tail);
  if (static_cast<int>(line.size() + failed.size()) > columns - 1) return line.substr(0, std::max(columns - 1, 0));
  if (failed.empty()) return line;
  return line + (color ? absl::StrCat("\x1b[31m", failed, "\x1b[0m") : failed);
}

std::string RenderLine(const ProgressState& state) {
  std::string line = absl::StrCat(state.done, " of ", state.total, " images");
  if (state.failed > 0) absl::StrAppend(&line, " (", state.failed, " failed)");
  if (state.done > 0) absl::StrAppend(&line, ", ", RateText(state));
  if (state.done > 0 && state.done < state.total) absl::StrAppend(&line, ", ", MinutesText(TimeLeft(state)), " left");
  return line;
}

ProgressStyle ChooseProgressStyle(bool quiet) {
  if (quiet) return ProgressStyle::kQuiet;
  const std::string term = GetEnvironment("TERM");
  return isatty(STDERR_FILENO) != 0 && !term.empty() && term != "dumb" ? ProgressStyle::kBar : ProgressStyle::kLines;
}

Progress::Progress(ProgressStyle style, const Clock* clock)
    : style_(style), clock_(clock), color_(GetEnvironment("NO_COLOR").empty()) {}

Progress::~Progress() { Finish(); }

void Progress::Expect(int64_t images) {
  absl::MutexLock lock(&mu_);
  if (start_ == absl::InfiniteFuture()) start_ = clock_->Now();
  state_.total += images;
  DrawLocked();
}

void Progress::Done(bool failed) {
  absl::MutexLock lock(&mu_);
  ++state_.done;
  if (failed) ++state_.failed;
  DrawLocked();
}

void Progress::Note(const std::string& line) {
  absl::MutexLock lock(&mu_);
  if (style_ == ProgressStyle::kQuiet) return;
  EraseLocked();
  std::fprintf(stderr, "%s\n", line.c_str());
  if (!finished_) {
    drawn_ = absl::InfinitePast();
    DrawLocked();
  }
}

void Progress::Finish() {
  absl::MutexLock lock(&mu_);
  if (finished_) return;
  finished_ = true;
  EraseLocked();
}

ProgressState Progress::state() const {
  absl::MutexLock lock(&mu_);
  return StateLocked();
}

ProgressState Progress::StateLocked() const {
  ProgressState state = state_;
  state.elapsed = start_ == absl::InfiniteFuture() ? absl::ZeroDuration() : clock_->Now() - start_;
  return state;
}

void Progress::DrawLocked() {
  if (finished_ || state_.total == 0) return;
  if (style_ == ProgressStyle::kLines) {
    // Ten lines at most, however long the run is.
    const int64_t tenths = state_.done * 10 / state_.total;
    if (tenths <= tenths_printed_ || state_.done == state_.total) return;
    tenths_printed_ = tenths;
    std::fprintf(stderr, "%s\n", RenderLine(StateLocked()).c_str());
    return;
  }
  if (style_ != ProgressStyle::kBar) return;
  const absl::Time now = clock_->Now();
  if (now - drawn_ < kRedrawInterval && state_.done < state_.total) return;
  drawn_ = now;
  bar_is_up_ = true;
  std::fprintf(stderr, "\r%s\x1b[K", RenderBar(StateLocked(), TerminalColumns(), color_).c_str());
  std::fflush(stderr);
}

void Progress::EraseLocked() {
  if (!bar_is_up_) return;
  bar_is_up_ = false;
  std::fprintf(stderr, "\r\x1b[K");
  std::fflush(stderr);
}

}  // namespace turbofleet::cli
