// What the stores on SQL databases share: transactions, and the specs that they looked at last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/store/job_store.h"
#include "coordinator/store/spec_cache.h"

namespace turbofleet {

class SqlJobStore : public JobStore {
 public:
  absl::Status Transact(absl::FunctionRef<absl::Status()> body) final;

 protected:
  SqlJobStore() : specs_(kSpecsMax) {}

  // Begins a transaction, in which this coordinator cannot be fenced until it ends.
  virtual absl::Status BeginTransaction() = 0;
  virtual absl::Status CommitTransaction() = 0;
  // Also after a failed commit, and of a connection that is lost.
  virtual void RollBackTransaction() = 0;

  // Large jobs are not deleted at once: nobody sees their rows any more, and each later transaction takes some of them
  // away. Does so, in a transaction; returns whether there may be more.
  virtual absl::StatusOr<bool> PurgeSome() = 0;
  static constexpr int64_t kPurgedRows = 500;
  // There is something to purge.
  void NoteGarbage() { garbage_ = true; }
  bool has_garbage() const { return garbage_; }

  // Runs `body`, which returns a Status or StatusOr, in the transaction of Transact() or in one of its own. An error
  // that is the store's rolls it back; one that is the call's own does not, so `body` checks before it changes
  // anything.
  template <typename Body>
  auto Write(Body body) -> decltype(body()) {
    if (in_transaction_) return Read(body);
    if (absl::Status status = BeginTransaction(); !status.ok()) return status;
    auto result = body();
    absl::Status status = StatusOf(result);
    if (!IsStoreFailure(status)) status = PurgeAndCommit();
    if (status.ok()) return result;
    RollBack();
    return status;
  }

  // The same for what only looks, which needs no transaction of its own.
  template <typename Body>
  auto Read(Body body) -> decltype(body()) {
    if (!failure_.ok()) return failure_;
    auto result = body();
    if (in_transaction_ && IsStoreFailure(StatusOf(result))) failure_ = StatusOf(result);
    return result;
  }

  // The spec of a job with its name, tenant and prompt count from the columns beside it.
  static absl::StatusOr<std::shared_ptr<const JobSpec>> DecodeSpec(absl::string_view bytes, const std::string& id,
                                                                   const std::string& tenant, int32_t prompts);

  // Prompts as rows: as many as fit into one, at most kPromptsPerRow and about 1 MB.
  static std::vector<absl::Span<const std::string>> SplitPrompts(absl::Span<const std::string> prompts);
  static constexpr int32_t kPromptsPerRow = 1'024;

  // The results of a row whose number is above `after`.
  static absl::Status AppendResults(absl::string_view bytes, int64_t first_sequence, int64_t after,
                                    std::vector<NumberedResult>& to);
  // Of those of a row the first that is above `released` and not below `index`, less one, if there is one.
  static absl::StatusOr<std::optional<int64_t>> SequenceBefore(absl::string_view bytes, int64_t first_sequence,
                                                               int64_t released, int32_t index);

  SpecCache specs_;  // Of submitted jobs.

 private:
  static constexpr size_t kSpecsMax = 1'024;

  // Whether the database is at fault, not the call.
  static bool IsStoreFailure(const absl::Status& status);
  static const absl::Status& StatusOf(const absl::Status& status) { return status; }
  template <typename T>
  static const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
    return result.status();
  }
  absl::Status PurgeAndCommit();
  void RollBack();

  bool garbage_ = true;          // An earlier life may have left some.
  bool in_transaction_ = false;  // That of Transact().
  absl::Status failure_;         // Of the database, in the transaction; then nothing of it counts.
};

}  // namespace turbofleet
