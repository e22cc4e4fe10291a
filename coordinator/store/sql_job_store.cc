#include "coordinator/store/sql_job_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "coordinator/store/codec.h"

namespace turbofleet {
namespace {

constexpr size_t kPromptBytesPerRow = 1'000'000;

}  // namespace

bool SqlJobStore::IsStoreFailure(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
      return false;
    default:
      return true;
  }
}

absl::Status SqlJobStore::Transact(absl::FunctionRef<absl::Status()> body) {
  TURBOFLEET_RETURN_IF_ERROR(BeginTransaction());
  in_transaction_ = true;
  const absl::Status refused = body();
  in_transaction_ = false;
  absl::Status status = std::exchange(failure_, absl::OkStatus());
  if (status.ok()) status = refused;
  if (status.ok()) status = PurgeAndCommit();
  if (!status.ok()) RollBack();
  return status;
}

absl::Status SqlJobStore::PurgeAndCommit() {
  if (garbage_) {
    TURBOFLEET_ASSIGN_OR_RETURN(garbage_, PurgeSome());
  }
  return CommitTransaction();
}

void SqlJobStore::RollBack() {
  RollBackTransaction();
  specs_.Clear();   // Some may be of jobs that are not there after all.
  garbage_ = true;  // What was purged is there again.
}

absl::StatusOr<std::shared_ptr<const JobSpec>> SqlJobStore::DecodeSpec(absl::string_view bytes, const std::string& id,
                                                                       const std::string& tenant, int32_t prompts) {
  TURBOFLEET_ASSIGN_OR_RETURN(JobSpec spec, DecodeJobSpec(bytes));
  spec.name = absl::StrCat("jobs/", id);
  spec.tenant = tenant;
  spec.prompt_count = prompts;
  return std::make_shared<const JobSpec>(std::move(spec));
}

std::vector<absl::Span<const std::string>> SqlJobStore::SplitPrompts(absl::Span<const std::string> prompts) {
  std::vector<absl::Span<const std::string>> rows;
  while (!prompts.empty()) {
    size_t count = 0;
    size_t bytes = 0;
    do {
      bytes += prompts[count++].size();
    } while (count < prompts.size() && count < kPromptsPerRow && bytes + prompts[count].size() <= kPromptBytesPerRow);
    rows.push_back(prompts.first(count));
    prompts.remove_prefix(count);
  }
  return rows;
}

absl::Status SqlJobStore::AppendResults(absl::string_view bytes, int64_t first_sequence, int64_t after,
                                        std::vector<NumberedResult>& to) {
  TURBOFLEET_ASSIGN_OR_RETURN(std::vector<ImageResult> results, DecodeResults(bytes));
  for (size_t i = 0; i < results.size(); ++i) {
    const int64_t sequence = first_sequence + static_cast<int64_t>(i);
    if (sequence > after) to.push_back({.sequence = sequence, .result = std::move(results[i])});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int64_t>> SqlJobStore::SequenceBefore(absl::string_view bytes, int64_t first_sequence,
                                                                   int64_t released, int32_t index) {
  std::vector<NumberedResult> results;
  TURBOFLEET_RETURN_IF_ERROR(AppendResults(bytes, first_sequence, released, results));
  for (const NumberedResult& result : results) {
    if (result.result.index >= index) return result.sequence - 1;
  }
  return std::nullopt;
}

}  // namespace turbofleet
