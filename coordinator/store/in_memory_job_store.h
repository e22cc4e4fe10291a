// Jobs for as long as the process lives.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "coordinator/store/job_store.h"

namespace turbofleet {

// Thread-compatible.
class InMemoryJobStore : public JobStore {
 public:
  absl::Status Create(JobId id, std::shared_ptr<const JobSpec> spec) override;
  std::shared_ptr<const JobSpec> Find(JobId id) const override;
  bool Commit(ImageId image) override;
  void Remove(JobId id) override;

 private:
  struct Job {
    std::shared_ptr<const JobSpec> spec;
    std::vector<bool> ended;  // By index.
  };
  std::map<JobId, Job> jobs_;
};

}  // namespace turbofleet
