#include "coordinator/store/in_memory_job_store.h"

#include <utility>

namespace turbofleet {

absl::Status InMemoryJobStore::Create(JobId id, std::shared_ptr<const JobSpec> spec) {
  std::vector<bool> ended(spec->ImageCount());
  const bool is_new = jobs_.try_emplace(id, Job{std::move(spec), std::move(ended)}).second;
  return is_new ? absl::OkStatus() : absl::AlreadyExistsError("job: the id is taken");
}

std::shared_ptr<const JobSpec> InMemoryJobStore::Find(JobId id) const {
  const auto job = jobs_.find(id);
  return job == jobs_.end() ? nullptr : job->second.spec;
}

bool InMemoryJobStore::Commit(ImageId image) {
  const auto job = jobs_.find(image.job);
  if (job == jobs_.end() || image.index < 0 || image.index >= static_cast<int32_t>(job->second.ended.size())) {
    return false;
  }
  if (job->second.ended[image.index]) return false;
  job->second.ended[image.index] = true;
  return true;
}

void InMemoryJobStore::Remove(JobId id) { jobs_.erase(id); }

}  // namespace turbofleet
