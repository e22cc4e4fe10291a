// The start pictures of the jobs that live, each kept once however many jobs use it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace turbofleet {

// Thread-compatible.
class InputStore {
 public:
  explicit InputStore(int64_t bytes_max) : bytes_max_(bytes_max) {}

  // Keeps `content` until Release() was called as often as Hold(). RESOURCE_EXHAUSTED: no room.
  absl::Status Hold(const std::string& sha256, std::string content);
  // REQUIRES: held.
  void Release(const std::string& sha256);
  // Nothing if it is not held.
  std::shared_ptr<const std::string> Find(const std::string& sha256) const;

  int64_t bytes() const { return bytes_; }

 private:
  struct Input {
    std::shared_ptr<const std::string> content;
    int64_t holders = 0;
  };
  const int64_t bytes_max_;
  int64_t bytes_ = 0;
  std::map<std::string, Input> inputs_;
};

}  // namespace turbofleet
