// Results on their way to the coordinator, in order, until it has acknowledged them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "turbofleet/internal/worker/v1/worker_service.pb.h"

namespace turbofleet {

// One result.
struct Delivery {
  std::shared_ptr<internal::worker::v1::DeliverImagesRequest> message;
  absl::Time made;  // When the file was finished.
  int64_t bytes = 0;
  // As in WorkImage.
  std::string job{};
  int32_t index = 0;
};

// Two queues: not sent, and sent but not acknowledged. Bounded by the credit that the backlog withholds.
// Thread-compatible.
class DeliveryQueue {
 public:
  void Add(Delivery delivery) { unsent_.push_back(std::move(delivery)); }

  // The next one to send, which from now on waits for its acknowledgement; null if there is none.
  const Delivery* SendNext();

  // Takes out the one that was acknowledged; null if none such is waiting. Earlier ones that were skipped stay.
  std::unique_ptr<Delivery> Acknowledge(uint64_t lease, int slot);

  // The stream broke: everything that was not acknowledged is to be sent again, in the old order.
  void Resend();

  // Takes out what was not sent and is not wanted any more, and calls `dropped` for each.
  void DropUnsent(const std::function<bool(uint64_t lease, int slot)>& unwanted,
                  const std::function<void(const Delivery&)>& dropped);

  // Takes out everything.
  void Clear(const std::function<void(const Delivery&)>& dropped);

  bool has_unsent() const { return !unsent_.empty(); }
  bool empty() const { return unsent_.empty() && unacknowledged_.empty(); }

 private:
  std::deque<Delivery> unsent_;
  std::deque<Delivery> unacknowledged_;
};

}  // namespace turbofleet
