#include "worker/engine/sd_turbo/text_cache.h"

namespace turbofleet::sd_turbo {

std::optional<at::Tensor> TextCache::Find(const std::vector<int64_t>& ids) {
  const auto found = by_ids_.find(ids);
  if (found == by_ids_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->second;
}

void TextCache::Insert(const std::vector<int64_t>& ids, const at::Tensor& states) {
  if (entries_max_ == 0) return;
  if (entries_.size() == entries_max_) {
    by_ids_.erase(entries_.back().first);
    entries_.pop_back();
  }
  entries_.emplace_front(ids, states);
  by_ids_.emplace(ids, entries_.begin());
}

}  // namespace turbofleet::sd_turbo
