// Reads what a durable job has become: from the store, and pictures from the spool.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/dispatch/messages.h"
#include "coordinator/dispatch/store_queue.h"

namespace turbofleet {

// Thread-safe. What it is given outlives it, and all calls that it has not answered.
class ResultReader {
 public:
  struct Request {
    std::string job;  // JobRecord::id.
    bool ordered = false;
    // In order: the first index that is wanted. Otherwise: the sequence after which to go on.
    int64_t position = 0;
    bool with_content = true;
    int32_t image_count = 0;  // Of the job.
    int32_t images_max = 256;
    int64_t bytes_max = int64_t{1} << 20;  // Reached by the last picture, or not.
  };
  struct Read {
    int64_t sequence = 0;
    std::variant<FinishedImage, UnfinishedImage> outcome;
  };
  struct Result {
    std::vector<Read> images;  // By sequence, or by index without a gap from `position`.
    int64_t position = 0;      // Where to go on.
  };
  using Callback = std::function<void(absl::StatusOr<Result> result)>;

  // `run` runs a call in a thread that may wait for a disk.
  ResultReader(StoreQueue* store, const Spool* spool, std::function<void(std::function<void()>)> run)
      : store_(store), spool_(spool), run_(std::move(run)) {}

  // Answers once, from another thread. A picture that is not there as it was written is an UnfinishedImage with
  // PICTURE_LOST. NOT_FOUND: the job is gone. OUT_OF_RANGE: it was released; in order that may show only after the job
  // has completed. UNAVAILABLE: it cannot be read at present.
  void Start(const Request& request, Callback callback) const;

 private:
  StoreQueue* const store_;
  const Spool* const spool_;
  const std::function<void(std::function<void()>)> run_;
};

}  // namespace turbofleet
