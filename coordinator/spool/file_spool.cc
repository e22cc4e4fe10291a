#include "coordinator/spool/file_spool.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "isa-l/crc.h"

namespace turbofleet {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHeaderBytes = 32;
constexpr uint32_t kMagic = 0x4d494654;  // "TFIM"
constexpr int64_t kFileBytesMax = int64_t{1} << 30;

using Header = std::array<char, kHeaderBytes>;

// Little-endian, whatever the machine.
void Store(uint64_t value, size_t bytes, char* to) {
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<char>(value >> (8 * i));
}

uint64_t Load(const char* from, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(from[i])) << (8 * i);
  return value;
}

uint32_t Crc32c(const char* data, size_t size) {
  // The library takes what it does not change as non-const, and at most an int at a time.
  return crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<char*>(data)), static_cast<int>(size), 0);
}

Header MakeHeader(int32_t index, int64_t length, uint32_t crc32c) {
  Header header = {};
  Store(kMagic, 4, &header[0]);
  Store(static_cast<uint32_t>(index), 4, &header[4]);
  Store(static_cast<uint64_t>(length), 8, &header[8]);
  Store(crc32c, 4, &header[16]);
  Store(Crc32c(header.data(), 24), 4, &header[24]);
  return header;
}

absl::Status WriteError(int code, const std::string& path) {
  const std::string message = absl::StrCat("cannot write ", path, ": ", std::strerror(code));
  if (code == ENOSPC || code == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

absl::Status WriteAll(int fd, std::string_view data, int64_t offset, const std::string& path) {
  while (!data.empty()) {
    const ssize_t written = ::pwrite(fd, data.data(), data.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return WriteError(written == 0 ? ENOSPC : errno, path);
    data.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return absl::OkStatus();
}

bool ReadAll(int fd, char* data, size_t size, int64_t offset) {
  while (size > 0) {
    const ssize_t got = ::pread(fd, data, size, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    data += got;
    size -= static_cast<size_t>(got);
    offset += got;
  }
  return true;
}

// Makes it durable that the folder has the files that it has.
absl::Status SyncFolder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return WriteError(errno, path);
  const int result = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  return result == 0 ? absl::OkStatus() : WriteError(code, path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileSpool>> FileSpool::Open(const Options& options) {
  std::error_code error;
  fs::create_directories(options.folder, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot create the folder ", options.folder));
  if (::access(options.folder.c_str(), W_OK | X_OK) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write to the folder ", options.folder));
  }
  return std::unique_ptr<FileSpool>(new FileSpool(options));
}

FileSpool::~FileSpool() {
  for (const Pack& pack : packs_) ::close(pack.fd);
}

std::string FileSpool::PathOf(const std::string& pack) const {
  return absl::StrCat(options_.folder, "/", pack, ".pack");
}

absl::StatusOr<FileSpool::PackList::iterator> FileSpool::PackFor(const std::string& job, size_t bytes) {
  const auto found = by_job_.find(job);
  if (found != by_job_.end()) {
    const PackList::iterator pack = found->second;
    packs_.splice(packs_.end(), packs_, pack);
    if (pack->size + static_cast<int64_t>(bytes) <= options_.pack_bytes_max) return pack;
    TURBOFLEET_RETURN_IF_ERROR(Close(pack));
  }
  while (packs_.size() >= options_.packs_open_max) TURBOFLEET_RETURN_IF_ERROR(Close(packs_.begin()));

  const std::string folder = absl::StrCat(options_.folder, "/", job);
  std::error_code error;
  if (fs::create_directory(folder, error)) folders_to_sync_.insert(options_.folder);
  if (error) return WriteError(error.value(), folder);
  const std::string name = absl::StrCat(job, "/", options_.life, "-", ++packs_made_);
  const std::string path = PathOf(name);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return WriteError(errno, path);
  folders_to_sync_.insert(folder);
  packs_.push_back({.job = job, .name = name, .fd = fd, .size = 0, .dirty = false});
  const PackList::iterator pack = std::prev(packs_.end());
  by_job_[job] = pack;
  return pack;
}

absl::Status FileSpool::Close(PackList::iterator pack) {
  if (pack->dirty && ::fdatasync(pack->fd) != 0) return WriteError(errno, PathOf(pack->name));
  Forget(pack);
  return absl::OkStatus();
}

absl::Status FileSpool::CheckRoom() const {
  struct statvfs disk = {};
  if (::statvfs(options_.folder.c_str(), &disk) != 0) return WriteError(errno, options_.folder);
  const int64_t left = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  if (left >= options_.disk_free_min) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the disk of ", options_.folder, " has ", left,
                                                   " bytes left; disk_free_min is ", options_.disk_free_min));
}

absl::StatusOr<PackedFile> FileSpool::Append(const std::string& job, int32_t index, std::string_view content) {
  if (static_cast<int64_t>(content.size()) > kFileBytesMax) return absl::InvalidArgumentError("the file is too large");
  TURBOFLEET_RETURN_IF_ERROR(CheckRoom());
  TURBOFLEET_ASSIGN_OR_RETURN(const PackList::iterator pack, PackFor(job, kHeaderBytes + content.size()));
  const auto length = static_cast<int64_t>(content.size());
  const uint32_t crc32c = Crc32c(content.data(), content.size());
  const Header header = MakeHeader(index, length, crc32c);
  const std::string path = PathOf(pack->name);
  pack->dirty = true;
  TURBOFLEET_RETURN_IF_ERROR(WriteAll(pack->fd, {header.data(), header.size()}, pack->size, path));
  const int64_t offset = pack->size + static_cast<int64_t>(kHeaderBytes);
  TURBOFLEET_RETURN_IF_ERROR(WriteAll(pack->fd, content, offset, path));
  pack->size = offset + length;
  return PackedFile{.pack = pack->name, .offset = offset, .length = length, .crc32c = crc32c};
}

absl::Status FileSpool::Sync() {
  for (Pack& pack : packs_) {
    if (!pack.dirty) continue;
    if (::fdatasync(pack.fd) != 0) return WriteError(errno, PathOf(pack.name));
    pack.dirty = false;
  }
  while (!folders_to_sync_.empty()) {
    // A job's folder may be gone with its job.
    const absl::Status synced = SyncFolder(*folders_to_sync_.begin());
    if (!synced.ok() && fs::exists(*folders_to_sync_.begin())) return synced;
    folders_to_sync_.erase(folders_to_sync_.begin());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FileSpool::Read(const PackedFile& file) const {
  const std::string path = PathOf(file.pack);
  if (file.offset < static_cast<int64_t>(kHeaderBytes) || file.length < 0 || file.length > kFileBytesMax) {
    return absl::DataLossError(absl::StrCat(path, ": no record can be at ", file.offset));
  }
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string message = absl::StrCat("cannot open ", path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::DataLossError(message) : absl::UnavailableError(message);
  }
  // The header and the file in one read.
  std::string record(kHeaderBytes + static_cast<size_t>(file.length), '\0');
  const bool whole = ReadAll(fd, record.data(), record.size(), file.offset - static_cast<int64_t>(kHeaderBytes));
  ::close(fd);
  const auto is_sound = [&] {
    if (!whole || Load(&record[0], 4) != kMagic || Load(&record[24], 4) != Crc32c(record.data(), 24)) return false;
    if (static_cast<int64_t>(Load(&record[8], 8)) != file.length) return false;
    return Crc32c(record.data() + kHeaderBytes, static_cast<size_t>(file.length)) == file.crc32c;
  };
  if (!is_sound()) {
    return absl::DataLossError(absl::StrCat(path, ": the record at ", file.offset, " is not as it was written"));
  }
  record.erase(0, kHeaderBytes);
  return record;
}

void FileSpool::Forget(PackList::iterator pack) {
  ::close(pack->fd);
  by_job_.erase(pack->job);
  packs_.erase(pack);
}

void FileSpool::Seal(const std::string& pack) {
  const auto open = std::find_if(packs_.begin(), packs_.end(), [&](const Pack& other) { return other.name == pack; });
  if (open != packs_.end()) Forget(open);
}

void FileSpool::RemovePack(const std::string& pack) {
  Seal(pack);
  std::error_code ignored;
  fs::remove(PathOf(pack), ignored);
}

void FileSpool::RemoveJob(const std::string& job) {
  if (job.empty() || job.find('/') != std::string::npos) return;
  if (const auto open = by_job_.find(job); open != by_job_.end()) Forget(open->second);
  std::error_code ignored;
  fs::remove_all(absl::StrCat(options_.folder, "/", job), ignored);
}

std::set<std::string> FileSpool::Jobs() const {
  std::set<std::string> jobs;
  std::error_code error;
  for (fs::directory_iterator entry(options_.folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->is_directory(error)) jobs.insert(entry->path().filename().string());
  }
  return jobs;
}

}  // namespace turbofleet
