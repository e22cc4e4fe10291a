// A database that the conformance suite opens, closes and opens again.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "coordinator/store/job_store.h"

namespace turbofleet {

class StoreBackend {
 public:
  virtual ~StoreBackend() = default;
  // Begins a life of that coordinator. Of a store that is not shared, the one before must be gone.
  virtual std::unique_ptr<JobStore> Open(const std::string& coordinator) = 0;
  // Makes the leases of all coordinators lapse, as if they had been silent.
  virtual void LapseLeases() {}
};

// The parameter of the suite.
struct StoreKind {
  std::string name;
  std::function<std::unique_ptr<StoreBackend>()> create;  // An empty database.

  friend std::ostream& operator<<(std::ostream& out, const StoreKind& kind) { return out << kind.name; }
};

}  // namespace turbofleet
