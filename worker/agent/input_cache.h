// Start pictures: fetched once, decoded once, resized once, and then shared by all images of a job.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/images/codec.h"
#include "worker/agent/encoder_pool.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// Which start picture, at which size.
struct InputKey {
  std::string sha256;  // Of the file, 64 lower-case hex digits.
  int width = 0;       // Pixels, after resizing.
  int height = 0;

  friend auto operator<=>(const InputKey&, const InputKey&) = default;
};

using InputReady = std::function<void(absl::StatusOr<std::shared_ptr<const RgbImage>>)>;

// Gets a file by its digest and calls back once, from any thread.
using InputFetch = std::function<void(const std::string& sha256, std::function<void(absl::StatusOr<std::string>)>)>;

// Keeps the start pictures that were used last. Lives in a shared_ptr, which fetches and decodings under way hold too.
// Thread-safe.
class InputCache : public std::enable_shared_from_this<InputCache> {
 public:
  struct Options {
    int64_t bytes_max = 256 << 20;  // Of pixels that are kept. One that is larger is used but not kept.
    DecodeLimits limits = {.bytes_max = 8 << 20, .pixels_max = 16'777'216, .side_max = 8192};
  };

  // `pool` decodes, and must be there until the last fetch has called back.
  InputCache(const Options& options, InputFetch fetch, EncoderPool* pool);

  // Calls `ready` once: at once if the picture is there, otherwise later from a thread of the pool or of `fetch`.
  // Concurrent calls for one picture share one fetch. INVALID_ARGUMENT "init_image: ...": it cannot be decoded, so no
  // worker can use it. Otherwise the code of the fetch, or DATA_LOSS if the file is not the one asked for; these are
  // not remembered.
  void Get(const InputKey& key, InputReady ready);

 private:
  struct Entry {
    std::shared_ptr<const RgbImage> image;
    std::list<InputKey>::iterator use;
  };

  std::shared_ptr<const RgbImage> FindLocked(const InputKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::shared_ptr<const RgbImage>> Decode(const InputKey& key, const std::string& content) const;
  void Finish(const InputKey& key, const absl::StatusOr<std::shared_ptr<const RgbImage>>& result);

  const Options options_;
  const InputFetch fetch_;
  EncoderPool* const pool_;
  absl::Mutex mu_;
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<InputKey, Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::list<InputKey> uses_ ABSL_GUARDED_BY(mu_);  // The latest use first.
  std::map<InputKey, std::vector<InputReady>> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace turbofleet
