// Results of durable jobs that outlive the session for which they were made.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/agent/delivery_queue.h"

namespace turbofleet {

// When a session breaks, what is on the device or behind it goes on. The next session tells the coordinator what it is,
// and the coordinator leases it to this worker again, under which lease it is delivered. What nobody asks for is
// dropped when the room is used up, the oldest first, or by Clear(). Thread-compatible.
class KeptResults {
 public:
  using Key = std::pair<std::string, int32_t>;  // "jobs/{job}" and the image's index.
  // Where a result is wanted.
  struct Place {
    uint64_t lease = 0;
    int slot = 0;
  };

  KeptResults(size_t images_max, int64_t bytes_max) : images_max_(images_max), bytes_max_(bytes_max) {}

  // An image is being made; its result will come by Add(). Nothing happens if there is no room.
  void Expect(const Key& key);

  // A result. The place where it is wanted, if somebody waits for it, and then it is not kept. What is not expected is
  // dropped.
  std::optional<Place> Add(const Key& key, const Delivery& delivery);

  // Whether the image is expected or kept.
  bool Holds(const Key& key) const { return entries_.contains(key); }

  // The coordinator wants a result that Holds(): it, and then it is not kept any more; or nothing, if it is expected:
  // Add() will tell.
  std::optional<Delivery> Take(const Key& key, const Place& place);

  // The places are those of a session that broke.
  void ForgetPlaces();

  // Drops what nobody waits for.
  void DropUnwanted();

  // What is expected or kept.
  std::vector<Key> Keys() const;

  void Clear();

  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::optional<Delivery> delivery;
    std::optional<Place> place;
  };
  void Erase(std::map<Key, Entry>::iterator entry);

  const size_t images_max_;
  const int64_t bytes_max_;
  std::map<Key, Entry> entries_;
  std::deque<Key> kept_;  // Those with a delivery, oldest first; some may have been taken since.
  int64_t bytes_ = 0;
};

}  // namespace turbofleet
