// The worker's book of one session: what it was sent, what it owes, and what it may still take.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "turbofleet/internal/worker/v1/worker_service.pb.h"
#include "worker/agent/work.h"

namespace turbofleet {

// Images between the device and the coordinator's acknowledgement.
struct Backlog {
  int64_t encoding = 0;    // Images that wait for a file, or are being made into one.
  int64_t delivering = 0;  // Images and failures that are not acknowledged.
  int64_t bytes = 0;       // Of both.
};

// Decides about credit and leases, without thread, clock or network. Thread-compatible.
class SessionLedger {
 public:
  struct Options {
    int64_t batches_ahead = 2;  // One on the device, one waiting for it.
    // While more than this is behind the device, batches that leave it are not replaced.
    int64_t backlog_images_max = 32;
    int64_t backlog_bytes_max = 128 << 20;
  };

  explicit SessionLedger(const Options& options) : options_(options), batches_taken_max_(options.batches_ahead) {}

  // Enters a batch. INVALID_ARGUMENT: its lease does not rise, or it is beyond the credit, against which those that are
  // adopted do not count.
  absl::Status Take(std::shared_ptr<Work> work);

  // Marks images as not wanted and forgets them; no slots means all. Returns how many were open. What the ledger does
  // not hold (any more) is none of it.
  int Abandon(uint64_t lease, const std::vector<int>& slots);

  // Forgets everything without marking it as not wanted, and returns what it was, with the slots that are open: as at
  // the end of a session whose results are kept.
  std::vector<std::pair<std::shared_ptr<Work>, std::set<int>>> Release();

  // Whether the image is wanted and was not closed.
  bool IsOpen(uint64_t lease, int slot) const;

  // The coordinator has it. Returns false if it was not open. A lease ends with its last image.
  bool Close(uint64_t lease, int slot);

  // A batch is not on the device, nor on its way there, any more.
  void LeftDevice() { ++batches_left_; }

  // Raises the credit to what was earned, unless the backlog forbids. Returns whether it rose.
  bool RaiseCredit(const Backlog& backlog);

  // The whole state, to be sent.
  internal::worker::v1::Report MakeReport(uint64_t progress, bool draining) const;

  bool empty() const { return open_.empty(); }

 private:
  struct Lease {
    std::shared_ptr<Work> work;
    std::set<int> slots;  // That are open.
  };

  const Options options_;
  int64_t batches_taken_ = 0;
  int64_t batches_left_ = 0;
  int64_t batches_taken_max_;
  uint64_t last_lease_ = 0;
  std::map<uint64_t, Lease> open_;
};

}  // namespace turbofleet
