#include "coordinator/dispatch/result_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

using Rows = std::vector<NumberedResult>;

// The results of images from `request.position` on, up to the first that has not ended.
absl::StatusOr<Rows> ReadInOrder(JobStore& store, const ResultReader::Request& request) {
  Rows rows;
  int64_t next = request.position;
  while (next < request.image_count && static_cast<int32_t>(rows.size()) < request.images_max) {
    TURBOFLEET_ASSIGN_OR_RETURN(Rows shard,
                                store.ReadShardResults(request.job, static_cast<int32_t>(next / kShardImages)));
    const int64_t before = next;
    for (NumberedResult& row : shard) {
      if (row.result.index < next) continue;
      if (row.result.index > next || static_cast<int32_t>(rows.size()) == request.images_max) break;
      rows.push_back(std::move(row));
      ++next;
    }
    // Only a shard that has ended to its last image leads to the next one.
    if (next == before || next % kShardImages != 0) break;
  }
  if (rows.empty() && next < request.image_count) {
    // Every image of a completed job has ended, so what is not there was given up.
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord job, store.Find(request.job));
    if (job.state == JobState::kCompleted) return absl::OutOfRangeError("the image was released");
  }
  return rows;
}

absl::StatusOr<Rows> ReadRows(JobStore& store, const ResultReader::Request& request) {
  if (request.ordered) return ReadInOrder(store, request);
  return store.ReadResults(request.job, request.position, request.images_max);
}

absl::StatusOr<std::variant<FinishedImage, UnfinishedImage>> Load(const Spool& spool, bool with_content,
                                                                  ImageResult result) {
  if (auto* failed = std::get_if<FailedResult>(&result.outcome)) {
    return UnfinishedImage{.index = result.index, .error = std::move(failed->error), .attempts = failed->attempts};
  }
  auto& packed = std::get<PackedPicture>(result.outcome);
  FinishedImage finished = {.index = result.index,
                            .picture = {.content = {},
                                        .pixel_sha256 = std::move(packed.pixel_sha256),
                                        .batch_size = packed.batch_size,
                                        .prompt_tokens_cut = packed.prompt_tokens_cut,
                                        .stages = packed.stages},
                            .worker = std::move(packed.worker),
                            .attempt = packed.attempt,
                            .queue_wait = packed.queue_wait};
  if (!with_content) return finished;
  absl::StatusOr<std::string> content = spool.Read(packed.file);
  if (absl::IsUnavailable(content.status())) return content.status();
  if (!content.ok()) {
    return UnfinishedImage{.index = result.index,
                           .error = {.code = content.status().code(),
                                     .reason = "PICTURE_LOST",
                                     .message = std::string(content.status().message())},
                           .attempts = packed.attempt};
  }
  finished.picture.content = *std::move(content);
  return finished;
}

// Pictures until the reader has as much as it wants at a time.
absl::StatusOr<ResultReader::Result> LoadRows(const Spool& spool, const ResultReader::Request& request, Rows rows) {
  ResultReader::Result result = {.images = {}, .position = request.position};
  int64_t bytes = 0;
  for (NumberedResult& row : rows) {
    if (bytes >= request.bytes_max) break;
    const int64_t next = request.ordered ? int64_t{row.result.index} + 1 : row.sequence;
    auto outcome = Load(spool, request.with_content, std::move(row.result));
    // What could be read goes out; the next call tells of the rest.
    if (!outcome.ok() && result.images.empty()) return outcome.status();
    if (!outcome.ok()) break;
    result.position = next;
    result.images.push_back({row.sequence, *std::move(outcome)});
    const auto* finished = std::get_if<FinishedImage>(&result.images.back().outcome);
    if (finished != nullptr) bytes += static_cast<int64_t>(finished->picture.content.size());
  }
  return result;
}

}  // namespace

void ResultReader::Start(const Request& request, Callback callback) const {
  const auto rows = std::make_shared<absl::StatusOr<Rows>>(absl::UnknownError("not read"));
  store_->Post([rows, request](JobStore& store, Spool&) { *rows = ReadRows(store, request); },
               [this, rows, request, callback = std::move(callback)](const absl::Status& status) mutable {
                 const absl::Status read = status.ok() ? rows->status() : status;
                 if (!read.ok()) {
                   callback(read);
                   return;
                 }
                 run_([this, rows, request, callback = std::move(callback)] {
                   callback(LoadRows(*spool_, request, **std::move(rows)));
                 });
               });
}

}  // namespace turbofleet
