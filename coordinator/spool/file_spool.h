// Pictures of durable jobs in files of a folder.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/spool/spool.h"

namespace turbofleet {

// DIR/{job}/{life}-{number}.pack.
//
// A pack is a sequence of records, each a header of 32 bytes and the file. Header, little-endian: "TFIM", index (4),
// length (8), CRC-32C of the file (4), 0 (4), CRC-32C of the 24 bytes before (4), 0 (4). The database has the index of
// what was committed; the headers are there to check it, and to get pictures out of a pack without it.
class FileSpool : public Spool {
 public:
  struct Options {
    std::string folder;
    std::string life;  // Of this coordinator: [0-9a-z]+, never used before.
    int64_t pack_bytes_max = int64_t{64} << 20;
    size_t packs_open_max = 64;
    int64_t disk_free_min = int64_t{256} << 20;  // Bytes of the disk that are left alone.
  };

  // Creates the folder if it is not there. Otherwise the system's error, which names the path.
  static absl::StatusOr<std::unique_ptr<FileSpool>> Open(const Options& options);
  ~FileSpool() override;
  FileSpool(const FileSpool&) = delete;
  FileSpool& operator=(const FileSpool&) = delete;

  absl::StatusOr<PackedFile> Append(const std::string& job, int32_t index, std::string_view content) override;
  absl::Status Sync() override;
  absl::Status CheckRoom() const override;
  absl::StatusOr<std::string> Read(const PackedFile& file) const override;
  void Seal(const std::string& pack) override;
  void RemovePack(const std::string& pack) override;
  void RemoveJob(const std::string& job) override;
  std::set<std::string> Jobs() const override;

 private:
  struct Pack {
    std::string job;
    std::string name;  // As in PackedFile.
    int fd = -1;
    int64_t size = 0;
    bool dirty = false;
  };
  using PackList = std::list<Pack>;  // Least recently used first.

  explicit FileSpool(const Options& options) : options_(options) {}
  absl::StatusOr<PackList::iterator> PackFor(const std::string& job, size_t bytes);
  absl::Status Close(PackList::iterator pack);
  void Forget(PackList::iterator pack);
  std::string PathOf(const std::string& pack) const;

  const Options options_;
  int64_t packs_made_ = 0;
  PackList packs_;
  std::map<std::string, PackList::iterator> by_job_;
  std::set<std::string> folders_to_sync_;
};

}  // namespace turbofleet
