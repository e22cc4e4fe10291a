// Runs calls, several at once, and puts what comes back into a folder.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/output_folder.h"
#include "client/cli/picture_writer.h"
#include "client/cli/progress.h"
#include "turbofleet/client.h"

namespace turbofleet::cli {

// One prompt of a call.
struct Source {
  std::string id;                // Of the row; empty if it has none.
  int64_t row = 0;               // From 1; 0 if the prompt is from the command line.
  std::vector<int64_t> indexes;  // Of its images in the folder, by seed.
};

// One request, with where its images go.
struct Call {
  client::GenerateRequest request;
  std::vector<Source> sources;    // One per prompt.
  std::string init_image_path;    // As it was given; empty if there is none.
  std::string init_image_sha256;  // Of the file.
  client::Accepted accepted;      // Once the call was accepted: what its defaults are.
};

// What marks images of the same request: a digest over every field that was given. A field left to the coordinator is
// another request than the same value given.
std::string RequestFingerprint(const Call& call, size_t prompt, uint64_t seed);

struct RunOptions {
  bool json = false;                      // A line on standard output per image.
  int calls_max = 1;                      // At once.
  bool refusals_belong_to_rows = false;   // What the cluster refuses goes to errors.jsonl, and the rest goes on.
  std::optional<absl::Duration> timeout;  // Of all calls together.
};

// Used once. Its methods are called from one thread; calls run on others.
class Runner {
 public:
  // All outlive it.
  Runner(Client* client, OutputFolder* folder, Progress* progress, const Clock* clock, const RunOptions& options);

  // Runs all calls. OK: each image ended. Otherwise the first error that is nobody's in particular: no connection, the
  // deadline, the disk, Ctrl-C.
  absl::Status Run(std::vector<Call> calls, std::stop_token stop);

  const PictureWriter& writer() const { return writer_; }
  int64_t images() const { return writer_.images(); }
  int64_t failures() const { return writer_.failures(); }
  // Adds a failure that was found before any call.
  absl::Status AddRowError(int64_t row, const std::string& id, const absl::Status& status);

 private:
  absl::Status RunCall(Call call, std::stop_source* stop);
  absl::Status OnEvent(Call* call, client::GenerateEvent event);
  absl::Status OnImage(const Call& call, client::Image image);
  absl::Status OnFailure(const Call& call, const client::ImageFailure& failure);
  // Writes refused prompts to errors.jsonl and takes them out of the call. False: the call cannot go on without them.
  absl::StatusOr<bool> DropRefused(const absl::Status& status, Call* call);
  absl::Status FailPrompt(const Call& call, size_t prompt, const absl::Status& status);

  Client* const client_;
  OutputFolder* const folder_;
  Progress* const progress_;
  const Clock* const clock_;
  const RunOptions options_;
  PictureWriter writer_;
  absl::Time deadline_ = absl::InfiniteFuture();
};

}  // namespace turbofleet::cli
