// Remembers the text states of recent prompts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace turbofleet::sd_turbo {

// The `entries_max` entries used last, by token ids. Thread-compatible.
class TextCache {
 public:
  explicit TextCache(size_t entries_max) : entries_max_(entries_max) {}

  std::optional<at::Tensor> Find(const std::vector<int64_t>& ids);
  // REQUIRES: `ids` are not in the cache.
  void Insert(const std::vector<int64_t>& ids, const at::Tensor& states);
  size_t size() const { return entries_.size(); }

 private:
  using Entry = std::pair<std::vector<int64_t>, at::Tensor>;

  const size_t entries_max_;
  std::list<Entry> entries_;  // The one used last in front.
  std::map<std::vector<int64_t>, std::list<Entry>::iterator> by_ids_;
};

}  // namespace turbofleet::sd_turbo
