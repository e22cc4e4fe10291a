// Where the pictures of durable jobs lie until their clients have them.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/store/results.h"

namespace turbofleet {

// Pictures in packs, each of one job and one life of a coordinator, so that several coordinators can share what lies
// below and none ever touches a pack of another.
//
// Read() is thread-safe, beside all others too; those are for one thread at a time.
class Spool {
 public:
  virtual ~Spool() = default;

  // Puts a file into a pack of the job; it is durable after Sync(). RESOURCE_EXHAUSTED: the disk is full, or has less
  // than disk_free_min left. UNAVAILABLE: it cannot be written. What was put before stays good.
  virtual absl::StatusOr<PackedFile> Append(const std::string& job, int32_t index, std::string_view content) = 0;

  // Makes durable what was appended. After an error some of it is not.
  virtual absl::Status Sync() = 0;

  // RESOURCE_EXHAUSTED: the disk has less than disk_free_min left.
  virtual absl::Status CheckRoom() const = 0;

  // The file as it was appended. DATA_LOSS: it is not there, or not as it was.
  virtual absl::StatusOr<std::string> Read(const PackedFile& file) const = 0;

  // Writes nothing more to a pack. Before its removal is decided on, so that nothing is in it that came later.
  virtual void Seal(const std::string& pack) = 0;

  // What is not there is no error.
  virtual void RemovePack(const std::string& pack) = 0;
  virtual void RemoveJob(const std::string& job) = 0;

  // The jobs that have a folder, in no order.
  virtual std::set<std::string> Jobs() const = 0;
};

}  // namespace turbofleet
