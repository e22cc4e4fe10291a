#include "worker/agent/delivery_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace turbofleet {

const Delivery* DeliveryQueue::SendNext() {
  if (unsent_.empty()) return nullptr;
  unacknowledged_.push_back(std::move(unsent_.front()));
  unsent_.pop_front();
  return &unacknowledged_.back();
}

std::unique_ptr<Delivery> DeliveryQueue::Acknowledge(uint64_t lease, int slot) {
  const auto found = std::find_if(unacknowledged_.begin(), unacknowledged_.end(), [&](const Delivery& delivery) {
    return delivery.message->lease() == lease && delivery.message->slot() == slot;
  });
  if (found == unacknowledged_.end()) return nullptr;
  auto delivery = std::make_unique<Delivery>(std::move(*found));
  unacknowledged_.erase(found);
  return delivery;
}

void DeliveryQueue::Resend() {
  unsent_.insert(unsent_.begin(), std::make_move_iterator(unacknowledged_.begin()),
                 std::make_move_iterator(unacknowledged_.end()));
  unacknowledged_.clear();
}

void DeliveryQueue::DropUnsent(const std::function<bool(uint64_t lease, int slot)>& unwanted,
                               const std::function<void(const Delivery&)>& dropped) {
  std::deque<Delivery> kept;
  for (Delivery& delivery : unsent_) {
    if (unwanted(delivery.message->lease(), delivery.message->slot())) {
      dropped(delivery);
    } else {
      kept.push_back(std::move(delivery));
    }
  }
  unsent_.swap(kept);
}

void DeliveryQueue::Clear(const std::function<void(const Delivery&)>& dropped) {
  for (const std::deque<Delivery>* queue : {&unsent_, &unacknowledged_}) {
    for (const Delivery& delivery : *queue) dropped(delivery);
  }
  unsent_.clear();
  unacknowledged_.clear();
}

}  // namespace turbofleet
