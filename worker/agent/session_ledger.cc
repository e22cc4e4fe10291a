#include "worker/agent/session_ledger.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace turbofleet {

absl::Status SessionLedger::Take(std::shared_ptr<Work> work) {
  if (work->lease <= last_lease_) {
    return absl::InvalidArgumentError(absl::StrCat("lease: ", work->lease, " is not above ", last_lease_));
  }
  if (!work->adopted && batches_taken_ >= batches_taken_max_) {
    return absl::InvalidArgumentError(absl::StrCat("batch: beyond the credit of ", batches_taken_max_));
  }
  batches_taken_ += work->adopted ? 0 : 1;
  last_lease_ = work->lease;
  Lease& lease = open_[work->lease];
  for (const std::unique_ptr<WorkImage>& image : work->images) lease.slots.insert(image->slot);
  lease.work = std::move(work);
  return absl::OkStatus();
}

int SessionLedger::Abandon(uint64_t lease, const std::vector<int>& slots) {
  const auto found = open_.find(lease);
  if (found == open_.end()) return 0;
  int abandoned = 0;
  for (const std::unique_ptr<WorkImage>& image : found->second.work->images) {
    const bool named = slots.empty() || std::find(slots.begin(), slots.end(), image->slot) != slots.end();
    if (!named || found->second.slots.erase(image->slot) == 0) continue;
    image->abandoned = true;
    ++abandoned;
  }
  if (found->second.slots.empty()) open_.erase(found);
  return abandoned;
}

std::vector<std::pair<std::shared_ptr<Work>, std::set<int>>> SessionLedger::Release() {
  std::vector<std::pair<std::shared_ptr<Work>, std::set<int>>> works;
  for (auto& [id, lease] : open_) works.emplace_back(std::move(lease.work), std::move(lease.slots));
  open_.clear();
  return works;
}

bool SessionLedger::IsOpen(uint64_t lease, int slot) const {
  const auto found = open_.find(lease);
  return found != open_.end() && found->second.slots.count(slot) > 0;
}

bool SessionLedger::Close(uint64_t lease, int slot) {
  const auto found = open_.find(lease);
  if (found == open_.end() || found->second.slots.erase(slot) == 0) return false;
  if (found->second.slots.empty()) open_.erase(found);
  return true;
}

bool SessionLedger::RaiseCredit(const Backlog& backlog) {
  if (backlog.encoding + backlog.delivering > options_.backlog_images_max) return false;
  if (backlog.bytes > options_.backlog_bytes_max) return false;
  const int64_t earned = batches_left_ + options_.batches_ahead;
  if (earned <= batches_taken_max_) return false;
  batches_taken_max_ = earned;
  return true;
}

internal::worker::v1::Report SessionLedger::MakeReport(uint64_t progress, bool draining) const {
  internal::worker::v1::Report report;
  report.set_batches_taken_max(batches_taken_max_);
  for (const auto& [lease, unused] : open_) report.add_leases(lease);
  report.set_last_lease_received(last_lease_);
  report.set_draining(draining);
  report.set_progress(progress);
  return report;
}

}  // namespace turbofleet
