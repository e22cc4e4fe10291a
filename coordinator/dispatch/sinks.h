// The streams that the dispatcher feeds.
//
// Post...() is called with the dispatcher's lock held, which gives all that a stream is sent one order; it may only put
// away what it is given. Flush() is called afterwards without the lock, from any thread, and starts the sending.
// Neither may block, and Post...() may not call the dispatcher.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/dispatch/messages.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

// One worker's stream. Thread-safe.
class WorkerSession {
 public:
  virtual ~WorkerSession() = default;
  virtual void PostWelcome(const SessionTerms& terms) = 0;
  virtual void PostBatch(const BatchToRender& batch) = 0;
  // No slots: all of them.
  virtual void PostAbandon(LeaseId lease, const std::vector<int32_t>& slots) = 0;
  // The last call. What was posted and not sent is dropped.
  virtual void PostClose(const absl::Status& status) = 0;
  virtual void Flush() = 0;
};

// The stream of one call whose images are for it alone. Thread-safe.
class JobWatch {
 public:
  virtual ~JobWatch() = default;
  // The first call. The watch reports each image or failure that it has sent by Dispatcher::ImageSent(id, ...).
  virtual void PostAccepted(JobId id, std::shared_ptr<const JobSpec> spec) = 0;
  virtual void PostImage(FinishedImage image) = 0;
  virtual void PostFailure(UnfinishedImage image) = 0;
  // The last call. OK comes after everything that was posted; an error overtakes what was not sent.
  virtual void PostEnd(const absl::Status& status) = 0;
  // Ends a stream that does not move: an end that waits behind a write would wait for ever.
  virtual void PostBreak() = 0;
  virtual void Flush() = 0;
};

// A stream that follows a durable job, and reads its results from the store by itself. Thread-safe.
class JobFollower {
 public:
  virtual ~JobFollower() = default;
  // The job has changed: results up to record.LastSequence() can be read, or it has ended.
  virtual void PostRecord(const JobRecord& record, bool waits_for_release) = 0;
  // The last call: the job is deleted, or the coordinator leaves.
  virtual void PostEnd(const absl::Status& status) = 0;
  virtual void Flush() = 0;
};

}  // namespace turbofleet
