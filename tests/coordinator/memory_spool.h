// A spool without a disk, whose disk fills up, breaks, and loses what was not synced.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "coordinator/spool/spool.h"

namespace turbofleet {

// What several coordinators write to.
struct MemoryDisk {
  struct Pack {
    std::string bytes;
    size_t synced = 0;
  };
  std::map<std::string, Pack> packs;
  bool full = false;
  bool sync_fails = false;
  bool unreadable = false;

  // The power fails: what was not synced of a coordinator's life is gone.
  void LoseTails(const std::string& life) {
    for (auto& [name, pack] : packs) {
      if (name.find(absl::StrCat("/", life, "-")) != std::string::npos) pack.bytes.resize(pack.synced);
    }
  }
  int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& [name, pack] : packs) sum += static_cast<int64_t>(pack.bytes.size());
    return sum;
  }
};

// Thread-compatible.
class MemorySpool : public Spool {
 public:
  MemorySpool(MemoryDisk* disk, std::string life, size_t pack_bytes_max = 1'000)
      : disk_(disk), life_(std::move(life)), pack_bytes_max_(pack_bytes_max) {}

  absl::StatusOr<PackedFile> Append(const std::string& job, int32_t /*index*/, std::string_view content) override {
    if (const absl::Status room = CheckRoom(); !room.ok()) return room;
    std::string& name = open_[job];
    if (name.empty() || disk_->packs[name].bytes.size() + content.size() > pack_bytes_max_) {
      name = absl::StrCat(job, "/", life_, "-", ++packs_made_);
    }
    MemoryDisk::Pack& pack = disk_->packs[name];
    const auto offset = static_cast<int64_t>(pack.bytes.size());
    pack.bytes += content;
    dirty_.insert(name);
    return PackedFile{.pack = name, .offset = offset, .length = static_cast<int64_t>(content.size()), .crc32c = 0};
  }

  absl::Status Sync() override {
    if (disk_->sync_fails) return absl::UnavailableError("the disk does not answer");
    for (const std::string& name : dirty_) {
      const auto pack = disk_->packs.find(name);
      if (pack != disk_->packs.end()) pack->second.synced = pack->second.bytes.size();
    }
    dirty_.clear();
    return absl::OkStatus();
  }

  absl::Status CheckRoom() const override {
    return disk_->full ? absl::ResourceExhaustedError("the disk is full") : absl::OkStatus();
  }

  absl::StatusOr<std::string> Read(const PackedFile& file) const override {
    if (disk_->unreadable) return absl::UnavailableError("the disk does not answer");
    const auto pack = disk_->packs.find(file.pack);
    if (pack == disk_->packs.end() || static_cast<int64_t>(pack->second.bytes.size()) < file.offset + file.length) {
      return absl::DataLossError(absl::StrCat("nothing is at ", file.pack, ":", file.offset));
    }
    return pack->second.bytes.substr(static_cast<size_t>(file.offset), static_cast<size_t>(file.length));
  }

  void Seal(const std::string& pack) override {
    std::erase_if(open_, [&](const auto& open) { return open.second == pack; });
  }
  void RemovePack(const std::string& pack) override {
    Seal(pack);
    disk_->packs.erase(pack);
  }
  void RemoveJob(const std::string& job) override {
    open_.erase(job);
    std::erase_if(disk_->packs, [&](const auto& pack) { return pack.first.starts_with(absl::StrCat(job, "/")); });
  }
  std::set<std::string> Jobs() const override {
    std::set<std::string> jobs;
    for (const auto& [name, pack] : disk_->packs) jobs.insert(name.substr(0, name.find('/')));
    return jobs;
  }

 private:
  MemoryDisk* const disk_;
  const std::string life_;
  const size_t pack_bytes_max_;
  int packs_made_ = 0;
  std::map<std::string, std::string> open_;  // By job.
  std::set<std::string> dirty_;
};

}  // namespace turbofleet
