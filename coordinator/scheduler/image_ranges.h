// A set of image indexes that takes memory by its gaps, not by its size.
#pragma once

#include <cstdint>
#include <map>

#include "absl/time/time.h"

namespace turbofleet {

// Indexes of 0 to 2^31-2, each with the time at which it was added. Thread-compatible.
class ImageRanges {
 public:
  struct First {
    int32_t index = 0;
    absl::Time since;
    int32_t count = 0;  // How many follow without a gap, itself included, that were added at the same time.
  };

  // REQUIRES: count > 0, and none of [first, first + count) is there.
  void Add(int32_t first, int32_t count, absl::Time since);
  // How many of [first, first + count) were there and are gone now.
  int64_t Remove(int32_t first, int32_t count);
  bool Contains(int32_t index) const;

  // REQUIRES: !empty().
  First first() const;
  // Takes the lowest `count` out. REQUIRES: 0 < count <= first().count.
  void PopFront(int32_t count);

  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  struct Range {
    int32_t end = 0;
    absl::Time since;
  };
  std::map<int32_t, Range> ranges_;  // By first index; disjoint.
  int64_t size_ = 0;
};

}  // namespace turbofleet
