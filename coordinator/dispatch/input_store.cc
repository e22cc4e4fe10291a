#include "coordinator/dispatch/input_store.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace turbofleet {

absl::Status InputStore::Hold(const std::string& sha256, std::string content) {
  const auto found = inputs_.find(sha256);
  if (found != inputs_.end()) {
    ++found->second.holders;
    return absl::OkStatus();
  }
  const auto size = static_cast<int64_t>(content.size());
  if (bytes_ + size > bytes_max_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("input_bytes_max: start pictures of ", bytes_max_, " bytes at most are kept at a time"));
  }
  bytes_ += size;
  inputs_[sha256] = {.content = std::make_shared<const std::string>(std::move(content)), .holders = 1};
  return absl::OkStatus();
}

void InputStore::Release(const std::string& sha256) {
  const auto found = inputs_.find(sha256);
  if (--found->second.holders > 0) return;
  bytes_ -= static_cast<int64_t>(found->second.content->size());
  inputs_.erase(found);
}

std::shared_ptr<const std::string> InputStore::Find(const std::string& sha256) const {
  const auto found = inputs_.find(sha256);
  return found == inputs_.end() ? nullptr : found->second.content;
}

}  // namespace turbofleet
