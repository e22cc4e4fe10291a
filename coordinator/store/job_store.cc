#include "coordinator/store/job_store.h"

#include <utility>

#include "common/status.h"

namespace turbofleet {

absl::StatusOr<CommitReceipt> JobStore::Commit(const ShardResults& results, absl::Time now) {
  TURBOFLEET_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<CommitReceipt>> receipts,
                              CommitAll(absl::MakeConstSpan(&results, 1), now));
  return std::move(receipts.front());
}

}  // namespace turbofleet
