// Specs of the jobs that were looked at last, so that a commit does not decode them again.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "coordinator/store/job_spec.h"

namespace turbofleet {

// Holds at most `specs_max`; the oldest make room. Thread-compatible.
class SpecCache {
 public:
  explicit SpecCache(size_t specs_max) : specs_max_(specs_max) {}

  // Null: not here.
  std::shared_ptr<const JobSpec> Find(const std::string& id) const {
    const auto found = specs_.find(id);
    return found == specs_.end() ? nullptr : found->second;
  }

  void Insert(const std::string& id, std::shared_ptr<const JobSpec> spec) {
    if (!specs_.insert_or_assign(id, std::move(spec)).second) return;
    order_.push_back(id);
    if (order_.size() <= specs_max_) return;
    specs_.erase(order_.front());
    order_.pop_front();
  }

  void Clear() {
    specs_.clear();
    order_.clear();
  }

 private:
  const size_t specs_max_;
  std::map<std::string, std::shared_ptr<const JobSpec>> specs_;
  std::deque<std::string> order_;  // Of insertion.
};

}  // namespace turbofleet
