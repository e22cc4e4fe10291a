#include "worker/agent/kept_results.h"

namespace turbofleet {

void KeptResults::Expect(const Key& key) {
  if (entries_.size() < images_max_) entries_.try_emplace(key);
}

std::optional<KeptResults::Place> KeptResults::Add(const Key& key, const Delivery& delivery) {
  const auto entry = entries_.find(key);
  if (entry == entries_.end() || entry->second.delivery.has_value()) return std::nullopt;
  const std::optional<Place> place = entry->second.place;
  // A failure is kept for nobody: another try may succeed.
  if (place.has_value() || delivery.message->has_failure()) {
    entries_.erase(entry);
    return place;
  }
  entry->second.delivery = delivery;
  bytes_ += delivery.bytes;
  kept_.push_back(key);
  while (bytes_ > bytes_max_ && !kept_.empty()) {
    const auto oldest = entries_.find(kept_.front());
    kept_.pop_front();
    if (oldest != entries_.end() && oldest->second.delivery.has_value()) Erase(oldest);
  }
  return std::nullopt;
}

std::optional<Delivery> KeptResults::Take(const Key& key, const Place& place) {
  const auto entry = entries_.find(key);
  if (!entry->second.delivery.has_value()) {
    entry->second.place = place;
    return std::nullopt;
  }
  std::optional<Delivery> delivery = std::move(entry->second.delivery);
  bytes_ -= delivery->bytes;
  entries_.erase(entry);
  return delivery;
}

void KeptResults::ForgetPlaces() {
  for (auto& [key, entry] : entries_) entry.place.reset();
}

void KeptResults::DropUnwanted() {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->second.place.has_value()) {
      ++entry;
      continue;
    }
    if (entry->second.delivery.has_value()) bytes_ -= entry->second.delivery->bytes;
    entry = entries_.erase(entry);
  }
  kept_.clear();
}

std::vector<KeptResults::Key> KeptResults::Keys() const {
  std::vector<Key> keys;
  for (const auto& [key, entry] : entries_) keys.push_back(key);
  return keys;
}

void KeptResults::Erase(std::map<Key, Entry>::iterator entry) {
  bytes_ -= entry->second.delivery->bytes;
  entries_.erase(entry);
}

void KeptResults::Clear() {
  entries_.clear();
  kept_.clear();
  bytes_ = 0;
}

}  // namespace turbofleet
