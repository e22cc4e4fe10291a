#include "coordinator/store/data_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace turbofleet {

absl::StatusOr<std::unique_ptr<DataDir>> DataDir::Open(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot create the folder ", path));
  const std::string file = path + "/coordinator.lock";
  const int lock = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", file));
  if (::flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const int code = errno;
    ::close(lock);
    if (code == EWOULDBLOCK) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is in use by another coordinator"));
    }
    return absl::ErrnoToStatus(code, absl::StrCat("cannot lock ", file));
  }
  return std::unique_ptr<DataDir>(new DataDir(lock));
}

DataDir::~DataDir() { ::close(lock_); }

}  // namespace turbofleet
