// Gets start pictures from the coordinator.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "turbofleet/internal/worker/v1/worker_service.grpc.pb.h"

namespace turbofleet {

// Calls WorkerService.GetInput. Thread-safe.
class InputFetcher {
 public:
  InputFetcher(const std::shared_ptr<grpc::Channel>& channel, absl::Duration timeout);
  // Cancels what is under way, and waits until it has called back.
  ~InputFetcher();
  InputFetcher(const InputFetcher&) = delete;
  InputFetcher& operator=(const InputFetcher&) = delete;

  // Calls `done` once with the file, from a thread of gRPC's. NOT_FOUND: no running job uses it. UNAVAILABLE: any other
  // failure; never INVALID_ARGUMENT, which would blame the picture.
  void Fetch(const std::string& sha256, std::function<void(absl::StatusOr<std::string>)> done);

 private:
  struct Call;

  bool NoneUnderWay() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return contexts_.empty(); }
  void Ended(grpc::ClientContext* context);

  const std::unique_ptr<internal::worker::v1::WorkerService::Stub> stub_;
  const absl::Duration timeout_;
  absl::Mutex mu_;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mu_);
};

}  // namespace turbofleet
