// The store in memory as a backend of the suite: what the other stores are compared with.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/store/in_memory_job_store.h"
#include "tests/coordinator/store/store_backend.h"
#include "tests/support/simulated_clock.h"

namespace turbofleet {

class InMemoryBackend : public StoreBackend {
 public:
  explicit InMemoryBackend(bool shared) : shared_(shared) {}

  std::unique_ptr<JobStore> Open(const std::string& coordinator) override {
    return std::make_unique<InMemoryJobStore>(
        database_, InMemoryJobStore::Options{
                       .shared = shared_, .coordinator = coordinator, .incarnation = absl::StrCat("life ", ++lives_)});
  }
  void LapseLeases() override { clock_.Advance(absl::Seconds(5) + absl::Nanoseconds(1)); }

 private:
  const bool shared_;
  SimulatedClock clock_;
  int lives_ = 0;
  const std::shared_ptr<InMemoryDatabase> database_ = std::make_shared<InMemoryDatabase>(clock_, absl::Seconds(5));
};

}  // namespace turbofleet
