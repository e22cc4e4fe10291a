// How far a run is: a bar on a terminal, a few plain lines elsewhere. All on standard error.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"

namespace turbofleet::cli {

struct ProgressState {
  int64_t total = 0;
  int64_t done = 0;  // Ended, failures included.
  int64_t failed = 0;
  absl::Duration elapsed;
};

// One line without its end, at most `columns` wide: " 412/1000 [####----] 38.2/s  ETA 0:15". `color` marks failures
// red.
std::string RenderBar(const ProgressState& state, int columns, bool color);

// The same for a log: "412 of 1000 images, 38.2/s, 0:15 left".
std::string RenderLine(const ProgressState& state);

// "0:07", "12:05", "3:00:01".
std::string MinutesText(absl::Duration duration);

enum class ProgressStyle { kQuiet, kLines, kBar };

// A bar if standard error is a terminal that can redraw a line (TERM is set and not "dumb").
ProgressStyle ChooseProgressStyle(bool quiet);

// Thread-safe.
class Progress {
 public:
  // `clock` outlives it.
  Progress(ProgressStyle style, const Clock* clock);
  ~Progress();  // Finishes.

  // Adds images to come; the clock starts with the first.
  void Expect(int64_t images);
  void Done(bool failed);
  // Prints a line of its own, above the bar. Not if quiet.
  void Note(const std::string& line);
  // Takes the bar away, so that other output follows on a clean line.
  void Finish();

  ProgressState state() const;

 private:
  ProgressState StateLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DrawLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EraseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ProgressStyle style_;
  const Clock* const clock_;
  const bool color_;

  mutable absl::Mutex mu_;
  ProgressState state_ ABSL_GUARDED_BY(mu_);
  absl::Time start_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  absl::Time drawn_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  int64_t tenths_printed_ ABSL_GUARDED_BY(mu_) = 0;
  bool bar_is_up_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace turbofleet::cli
