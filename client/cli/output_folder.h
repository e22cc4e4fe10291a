// The folder that pictures land in, with manifest.jsonl and errors.jsonl.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/manifest.h"
#include "nlohmann/json_fwd.hpp"

namespace turbofleet::cli {

// Names of files, from "{index:06d}-{seed}". {index}, {index:0Nd}, {seed}, {id} and {prompt} (the first 40 characters
// that are letters or digits, others as "-") are replaced; the extension is added.
class NameTemplate {
 public:
  // INVALID_ARGUMENT: unknown or unclosed braces, a slash, or no {index}, so that names would repeat.
  static absl::StatusOr<NameTemplate> Parse(const std::string& text);

  std::string Format(const ManifestEntry& entry) const;

 private:
  struct Part {
    std::string field;  // Empty: `text` as it is.
    std::string text;
    int digits = 0;  // Of {index}.
  };
  std::vector<Part> parts_;
};

// Pictures appear whole or not at all, and no file that is there is ever replaced. The manifest names a picture only
// after its file is in place. One process writes to a folder at a time.
//
// Thread-safe.
class OutputFolder {
 public:
  // Makes the folder if there is none, and reads its manifest. FAILED_PRECONDITION: another process is writing to it.
  // INVALID_ARGUMENT: its manifest is damaged. PERMISSION_DENIED, UNKNOWN: the system's refusal.
  static absl::StatusOr<std::unique_ptr<OutputFolder>> Open(const std::string& path, NameTemplate names);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string manifest_path() const;
  std::string errors_path() const;

  // What the manifest held when the folder was opened.
  const std::vector<ManifestEntry>& earlier() const { return earlier_; }
  // Takes the earlier picture with this `request` fingerprint whose file is still there, once each; nullptr if none is
  // left. REQUIRES: called before pictures are added, from one thread.
  const ManifestEntry* TakeEarlier(const std::string& request);
  // `wanted`, or the next free index above all others if the manifest has it. Each index is given out once.
  int64_t TakeIndex(int64_t wanted);
  // One above the largest index of the manifest; 0 if it is empty.
  int64_t next_index() const;

  // Writes the file and the manifest's line; sets entry->path.
  absl::Status AddImage(const std::string& extension, const std::string& content, ManifestEntry* entry);
  // Appends a line to errors.jsonl.
  absl::Status AddError(const nlohmann::ordered_json& error);
  // Drops the errors of earlier runs.
  absl::Status ClearErrors();

  // Returns once all that was written is on the disk, whatever happens to the machine.
  absl::Status Sync();

  // `path` as seen from the folder, so that both can move together.
  std::string RelativePath(const std::string& path) const;
  // The picture's file, from the current folder.
  std::string FilePath(const ManifestEntry& entry) const;

 private:
  OutputFolder(std::string path, NameTemplate names, int manifest_fd, Manifest manifest);

  // Puts `content` at `name`, or, where another file has it, at `name-2` and so on; returns the name.
  absl::StatusOr<std::string> Publish(const std::string& stem, const std::string& extension,
                                      const std::string& content);

  const std::string path_;
  const NameTemplate names_;
  const int manifest_fd_;
  const std::vector<ManifestEntry> earlier_;
  std::multimap<std::string, size_t> earlier_by_request_;  // To indexes of earlier_.
  std::set<int64_t> indexes_;
  int64_t next_index_ = 0;

  absl::Mutex mu_;
  int64_t files_written_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace turbofleet::cli
