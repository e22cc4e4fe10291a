// Puts what a cluster sends into a folder, tells of it, and counts.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/output_folder.h"
#include "client/cli/progress.h"
#include "nlohmann/json_fwd.hpp"
#include "turbofleet/client.h"

namespace turbofleet::cli {

// What `image` was made from and is, but for what only the caller knows: its index in the folder, prompt, id, request,
// and the start picture. `request` need not have prompts and seeds.
ManifestEntry EntryOf(const client::GenerateRequest& request, const client::Accepted& accepted,
                      const client::Image& image);

// The keys "code", "reason" and "message".
nlohmann::ordered_json ErrorJson(const absl::Status& status);

// Thread-safe.
class PictureWriter {
 public:
  // Both outlive it. `json`: a line on standard output per image.
  PictureWriter(OutputFolder* folder, Progress* progress, bool json)
      : folder_(folder), progress_(progress), json_(json) {}

  // Writes the file and the line of the manifest.
  absl::Status AddImage(ManifestEntry entry, client::FileFormat format, const std::string& content);
  // Writes a line of errors.jsonl.
  absl::Status AddFailure(const nlohmann::ordered_json& error);

  int64_t images() const;
  int64_t failures() const;

 private:
  void WarnOfCutTokens(const std::string& prompt, int32_t tokens);

  OutputFolder* const folder_;
  Progress* const progress_;
  const bool json_;

  mutable absl::Mutex mu_;
  int64_t images_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t failures_ ABSL_GUARDED_BY(mu_) = 0;
  std::set<std::string> prompts_warned_ ABSL_GUARDED_BY(mu_);  // By digest; at most kWarningsMax.
};

}  // namespace turbofleet::cli
