// The coordinator's own folder.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace turbofleet {

// Holds the folder for as long as it lives, so that two coordinators never share one. This release keeps nothing in it
// but the lock.
class DataDir {
 public:
  // Creates the folder if it is not there. FAILED_PRECONDITION: another process holds it. Otherwise the system's error,
  // which names the path.
  static absl::StatusOr<std::unique_ptr<DataDir>> Open(const std::string& path);
  ~DataDir();
  DataDir(const DataDir&) = delete;
  DataDir& operator=(const DataDir&) = delete;

 private:
  explicit DataDir(int lock) : lock_(lock) {}
  const int lock_;  // File descriptor; the lock goes with it, even by kill -9.
};

}  // namespace turbofleet
