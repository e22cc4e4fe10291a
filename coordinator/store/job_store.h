// Where jobs are kept, and which of their images have ended.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "coordinator/scheduler/types.h"
#include "coordinator/store/job_spec.h"

namespace turbofleet {

// The one place that decides that an image has ended. Whatever was not committed here may be rendered again; what was
// is shown to the client, once.
//
// Thread-compatible: Dispatcher holds the one lock around it.
class JobStore {
 public:
  virtual ~JobStore() = default;

  // Adds a job, none of whose images have ended. ALREADY_EXISTS: the id is taken.
  virtual absl::Status Create(JobId id, std::shared_ptr<const JobSpec> spec) = 0;

  // Nothing if there is no such job.
  virtual std::shared_ptr<const JobSpec> Find(JobId id) const = 0;

  // Ends an image. True for the first commit of the image, false for every later one, of a job that is gone too.
  virtual bool Commit(ImageId image) = 0;

  // Forgets a job. Nothing happens if there is none.
  virtual void Remove(JobId id) = 0;
};

}  // namespace turbofleet
