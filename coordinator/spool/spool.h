// Where the pictures of durable jobs lie until their clients have them.
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
#include "coordinator/store/results.h"

namespace turbofleet {

// Files of pictures in packs: DIR/{job}/{life}-{number}.pack, each of one job and one life of a coordinator, so that
// several coordinators can share the folder and none ever touches a pack of another.
//
// A pack is a sequence of records, each a header of 32 bytes and the file. Header, little-endian: "TFIM", index (4),
// length (8), CRC-32C of the file (4), 0 (4), CRC-32C of the 24 bytes before (4), 0 (4). The database has the index of
// what was committed; the headers are there to check it, and to get pictures out of a pack without it.
//
// Read() is thread-safe, beside all others too; those are for one thread at a time.
class Spool {
 public:
  struct Options {
    std::string folder;
    std::string life;  // Of this coordinator: [0-9a-z]+, never used before.
    int64_t pack_bytes_max = int64_t{64} << 20;
    size_t packs_open_max = 64;
    int64_t disk_free_min = int64_t{256} << 20;  // Bytes of the disk that are left alone.
  };

  // Creates the folder if it is not there. Otherwise the system's error, which names the path.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(const Options& options);
  ~Spool();
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  // Puts a file into a pack of the job; it is durable after Sync(). RESOURCE_EXHAUSTED: the disk is full, or has less
  // than disk_free_min left. UNAVAILABLE: it cannot be written. What was put before stays good.
  absl::StatusOr<PackedFile> Append(const std::string& job, int32_t index, std::string_view content);

  // Makes durable what was appended. After an error some of it is not.
  absl::Status Sync();

  // RESOURCE_EXHAUSTED: the disk has less than disk_free_min left.
  absl::Status CheckRoom() const;

  // The file as it was appended. DATA_LOSS: it is not there, or not as it was.
  absl::StatusOr<std::string> Read(const PackedFile& file) const;

  // Writes nothing more to a pack. Before its removal is decided on, so that nothing is in it that came later.
  void Seal(const std::string& pack);

  // What is not there is no error.
  void RemovePack(const std::string& pack);
  void RemoveJob(const std::string& job);

  // The jobs that have a folder, in no order.
  std::set<std::string> Jobs() const;

 private:
  struct Pack {
    std::string job;
    std::string name;  // As in PackedFile.
    int fd = -1;
    int64_t size = 0;
    bool dirty = false;
  };
  using PackList = std::list<Pack>;  // Least recently used first.

  explicit Spool(const Options& options) : options_(options) {}
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
