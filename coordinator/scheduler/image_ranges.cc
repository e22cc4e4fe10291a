#include "coordinator/scheduler/image_ranges.h"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace turbofleet {

void ImageRanges::Add(int32_t first, int32_t count, absl::Time since) {
  assert(first >= 0 && count > 0);
  int32_t end = first + count;
  size_ += count;
  auto next = ranges_.lower_bound(first);
  assert(next == ranges_.end() || next->first >= end);
  if (next != ranges_.end() && next->first == end && next->second.since == since) {
    end = next->second.end;
    next = ranges_.erase(next);
  }
  if (next != ranges_.begin()) {
    const auto previous = std::prev(next);
    assert(previous->second.end <= first);
    if (previous->second.end == first && previous->second.since == since) {
      previous->second.end = end;
      return;
    }
  }
  ranges_.emplace_hint(next, first, Range{end, since});
}

int64_t ImageRanges::Remove(int32_t first, int32_t count) {
  const int32_t end = first + count;
  int64_t removed = 0;
  auto range = ranges_.upper_bound(first);
  if (range != ranges_.begin()) --range;
  while (range != ranges_.end() && range->first < end) {
    const auto [range_first, held] = *range;
    const int32_t cut_first = std::max(first, range_first);
    const int32_t cut_end = std::min(end, held.end);
    if (cut_first >= cut_end) {
      ++range;
      continue;
    }
    removed += cut_end - cut_first;
    if (cut_end < held.end) ranges_.emplace_hint(std::next(range), cut_end, held);
    if (cut_first > range_first) {
      range->second.end = cut_first;
      ++range;
    } else {
      range = ranges_.erase(range);
    }
  }
  size_ -= removed;
  return removed;
}

bool ImageRanges::Contains(int32_t index) const {
  const auto after = ranges_.upper_bound(index);
  return after != ranges_.begin() && index < std::prev(after)->second.end;
}

ImageRanges::First ImageRanges::first() const {
  assert(!empty());
  const auto& [first, range] = *ranges_.begin();
  return {.index = first, .since = range.since, .count = range.end - first};
}

void ImageRanges::PopFront(int32_t count) {
  auto node = ranges_.extract(ranges_.begin());
  assert(count > 0 && count <= node.mapped().end - node.key());
  size_ -= count;
  node.key() += count;
  if (node.key() < node.mapped().end) ranges_.insert(ranges_.begin(), std::move(node));
}

}  // namespace turbofleet
