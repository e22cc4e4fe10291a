// Streams that only remember.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/dispatch/sinks.h"

namespace turbofleet {

// What a worker was sent. Thread-compatible, as the tests that use it have one thread.
class FakeSession : public WorkerSession {
 public:
  void PostWelcome(const SessionTerms& terms) override { welcome = terms; }
  void PostBatch(const BatchToRender& batch) override { batches.push_back(batch); }
  void PostAbandon(LeaseId lease, const std::vector<int32_t>& slots) override { abandoned.emplace_back(lease, slots); }
  void PostClose(const absl::Status& status) override { closed = status; }
  void Flush() override { ++flushes; }

  std::optional<SessionTerms> welcome;
  std::vector<BatchToRender> batches;
  std::vector<std::pair<LeaseId, std::vector<int32_t>>> abandoned;
  std::optional<absl::Status> closed;
  int flushes = 0;
};

// What a client was sent. Thread-compatible.
class FakeWatch : public JobWatch {
 public:
  void PostAccepted(JobId accepted_id, std::shared_ptr<const JobSpec> accepted_spec) override {
    id = accepted_id;
    spec = std::move(accepted_spec);
  }
  void PostImage(FinishedImage image) override { images.push_back(std::move(image)); }
  void PostFailure(UnfinishedImage image) override { failures.push_back(std::move(image)); }
  void PostEnd(const absl::Status& status) override { ended = status; }
  void PostBreak() override { broken = true; }
  void Flush() override { ++flushes; }

  std::optional<JobId> id;
  std::shared_ptr<const JobSpec> spec;
  std::vector<FinishedImage> images;
  std::vector<UnfinishedImage> failures;
  std::optional<absl::Status> ended;
  bool broken = false;
  int flushes = 0;
};

}  // namespace turbofleet
