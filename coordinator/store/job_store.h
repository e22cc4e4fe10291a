// Where durable jobs are kept: what they are, who works on which part of them, and how each of their images ended.
//
// The unit of work is a shard of kShardImages consecutive images with a bitmap of those that have ended, never an
// image: a job of 100 million images is 98 thousand rows, and those appear only as shards are claimed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/store/job_spec.h"
#include "coordinator/store/results.h"

namespace turbofleet {

inline constexpr int32_t kShardImages = 1'024;
// So that the last shard of a job also ends at a number of 32 bits.
inline constexpr int64_t kJobImagesMax = (int64_t{1} << 31) - 2 * kShardImages;

enum class JobState {
  kRunning,
  kCompleted,  // Every image has ended, as a picture or as a failure.
  kCancelled,  // By its client. What had ended by then stays.
  kExpired,    // Its deadline passed. What had ended by then stays.
};

// A durable job as it is now.
struct JobRecord {
  std::string id;                       // 32 hex digits, the end of "jobs/{job}".
  std::string request_id;               // The client's name for it, unique in the tenant; empty if it gave none.
  std::shared_ptr<const JobSpec> spec;  // Without its prompts.
  JobState state = JobState::kRunning;
  absl::Time create_time;
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time end_time = absl::InfiniteFuture();
  absl::Time delete_time = absl::InfiniteFuture();  // end_time + retention.
  int64_t images_completed = 0;
  int64_t images_failed = 0;
  int64_t bytes_retained = 0;     // In packs.
  int64_t released_sequence = 0;  // Results up to here are gone.

  // Images get the numbers 1, 2, 3, ... in the order in which they were committed.
  int64_t LastSequence() const { return images_completed + images_failed; }
};

// A part of a job, claimed by this coordinator.
struct ClaimedShard {
  int32_t number = 0;            // From 0; the shard starts at image `number * kShardImages`.
  int32_t first = 0;             // Its first image.
  int32_t count = 0;             // kShardImages, or less in the last one.
  std::vector<int32_t> ended{};  // Images that ended under an earlier owner, ascending.
};

// Images of one shard that have ended.
struct ShardResults {
  std::string job;  // JobRecord::id.
  int32_t shard = 0;
  std::vector<ImageResult> results{};
};

struct CommitReceipt {
  std::vector<int64_t> sequences;  // By result; 0 for an image that had ended before, whose new result is dropped.
  bool shard_done = false;
  JobRecord job;  // Afterwards. It has ended with its last image.
};

// A committed result with its number.
struct NumberedResult {
  int64_t sequence = 0;
  ImageResult result;
};

// Which jobs, and where a page starts.
struct JobQuery {
  std::optional<std::string> tenant{};  // Nothing: all of them.
  std::optional<JobState> state{};
  std::map<std::string, std::string> labels{};  // All of these.
  // The last job of the page before, newest first.
  std::optional<std::pair<absl::Time, std::string>> after{};  // create_time, id.
};

// What a tenant holds.
struct TenantUsage {
  int64_t jobs = 0;  // In any state.
  int64_t bytes_retained = 0;
};

// The one place that decides that an image has ended. Whatever was not committed here may be rendered again; what was
// is shown to clients, once.
//
// Methods block for as long as a database takes. Each is atomic: when it returns an error, nothing has changed. Outside
// of Transact() each is durable when it returns.
//
// Errors that any method may return:
// * ABORTED: another life of this coordinator, or one that took over its work, has fenced it. It must commit nothing
//   more and leave.
// * RESOURCE_EXHAUSTED: the disk is full. UNAVAILABLE: the database is away, or busy for too long. Both pass, and then
//   the call can be made again.
// * DATA_LOSS, INTERNAL: the database is broken.
// After UNAVAILABLE it can be that a change has become durable all the same, as when the connection broke before the
// answer came. Each method can be repeated: it finds that it is done.
//
// Thread-compatible: StoreQueue calls it from one thread.
class JobStore {
 public:
  virtual ~JobStore() = default;

  // Runs `body`, whose calls of this store become durable together. OK: all that succeeded in it is durable. An error,
  // that of `body` or one of those above: none of it has happened, and `body` may not have run. Calls that fail for a
  // reason of their own (NOT_FOUND and so on) do not fail the others. REQUIRES: `body` does not call Transact().
  virtual absl::Status Transact(absl::FunctionRef<absl::Status()> body) = 0;

  // ---- Lives of coordinators

  // Whether other coordinators use it at the same time.
  virtual bool shared() const = 0;
  // Tells the others that this coordinator lives. OK at once if it is not shared. To be called several times in
  // lease_duration().
  virtual absl::Status Renew() = 0;
  virtual absl::Duration lease_duration() const = 0;
  // Frees the shards of coordinators that have not renewed for longer than that, and the drafts that they left. Returns
  // how many shards.
  virtual absl::StatusOr<int64_t> TakeOverFromDead() = 0;

  // ---- Submitting

  // Starts a job, which is nobody's to see or work on until Submit(). Of `record` all but the counters counts;
  // spec->prompt_count may still be wrong. ALREADY_EXISTS: the id is taken.
  virtual absl::Status BeginDraft(const JobRecord& record) = 0;
  // Adds prompts after those that the draft has; many at a time, as each call is a row. NOT_FOUND: no such draft.
  virtual absl::Status AppendPrompts(const std::string& id, absl::Span<const std::string> prompts) = 0;
  // Keeps a start picture for as long as a job or draft names it in its spec. Nothing happens if it is there.
  // FAILED_PRECONDITION: none does; so the draft comes first.
  virtual absl::Status PutInput(const std::string& sha256, const std::string& content) = 0;
  // Makes the draft a running job with as many prompts as it has been given, and returns it. `fingerprint` stands for
  // all that the client sent: if the tenant has a job with the same request_id and fingerprint, the draft is dropped
  // and that job is returned. ALREADY_EXISTS: the same request_id with another fingerprint; the draft is dropped.
  // NOT_FOUND: no such draft. FAILED_PRECONDITION: it has no prompts, or more images than can be counted.
  virtual absl::StatusOr<JobRecord> Submit(const std::string& id, const std::string& fingerprint) = 0;
  // Nothing happens if there is none.
  virtual absl::Status DropDraft(const std::string& id) = 0;

  // ---- Looking

  // NOT_FOUND, of a draft too.
  virtual absl::StatusOr<JobRecord> Find(const std::string& id) = 0;
  // At most `max` jobs, newest first, those of one moment by id. No drafts.
  virtual absl::StatusOr<std::vector<JobRecord>> List(const JobQuery& query, int32_t max) = 0;
  // At most `max` running jobs after `after_id`, by id.
  virtual absl::StatusOr<std::vector<JobRecord>> ListRunning(const std::string& after_id, int32_t max) = 0;
  // At most `max` jobs whose delete_time has come, the most overdue first.
  virtual absl::StatusOr<std::vector<std::string>> ListDue(absl::Time now, int32_t max) = 0;
  virtual absl::StatusOr<std::map<std::string, TenantUsage>> Usage() = 0;

  // Prompts `first` to `first + count - 1`. NOT_FOUND: no such job. OUT_OF_RANGE.
  virtual absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& id, int32_t first, int32_t count) = 0;
  // NOT_FOUND.
  virtual absl::StatusOr<std::string> ReadInput(const std::string& sha256) = 0;

  // At most `max` results with a number above `after_sequence`, ascending, without a gap. NOT_FOUND: no such job.
  // OUT_OF_RANGE: released_sequence is above `after_sequence`.
  virtual absl::StatusOr<std::vector<NumberedResult>> ReadResults(const std::string& id, int64_t after_sequence,
                                                                  int32_t max) = 0;
  // All results of a shard that are not released, by index.
  virtual absl::StatusOr<std::vector<NumberedResult>> ReadShardResults(const std::string& id, int32_t shard) = 0;

  // ---- Working

  // Claims at most `max` shards of a running job that nobody has: those given back first, then the next new ones.
  // Empty: there are none left. NOT_FOUND: no such running job.
  virtual absl::StatusOr<std::vector<ClaimedShard>> Claim(const std::string& id, int32_t max) = 0;
  // Gives claimed shards to whoever claims next. Those that are not ours are left alone.
  virtual absl::Status Unclaim(const std::string& id, absl::Span<const int32_t> shards) = 0;
  // Ends images of several shards, as if one after the other, in few round trips. The answers are in the same order:
  // NOT_FOUND: no such running job. FAILED_PRECONDITION: the shard is not ours. INVALID_ARGUMENT: an image is not in
  // it. A shard stays ours after its last image.
  virtual absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> CommitAll(absl::Span<const ShardResults> results,
                                                                               absl::Time now) = 0;
  // The same for one.
  absl::StatusOr<CommitReceipt> Commit(const ShardResults& results, absl::Time now);

  // Ends a running job; `state` is kCancelled or kExpired. Its shards are nobody's. A job that has ended is returned as
  // it is. NOT_FOUND.
  virtual absl::StatusOr<JobRecord> End(const std::string& id, JobState state, absl::Time now) = 0;

  // Gives up the results up to `sequence`, and returns the names of the packs that no result needs any more, ascending.
  // A pack holds files of one job; one that is still written to is needed again with the next result in it.
  // NOT_FOUND. OUT_OF_RANGE: above LastSequence(). Nothing happens to what is released already.
  virtual absl::StatusOr<std::vector<std::string>> ReleaseResults(const std::string& id, int64_t sequence) = 0;
  // The highest sequence up to which all results that are not released have an index below `index`. NOT_FOUND.
  virtual absl::StatusOr<int64_t> SequenceBeforeIndex(const std::string& id, int32_t index) = 0;

  // Forgets a job that has ended, and returns the names of its packs, ascending. NOT_FOUND. FAILED_PRECONDITION: it
  // runs.
  virtual absl::StatusOr<std::vector<std::string>> Delete(const std::string& id) = 0;

  // Upkeep that can wait, for some milliseconds: to be called when there is nothing else to do. Returns whether there
  // is more of it.
  virtual bool Idle() { return false; }
};

}  // namespace turbofleet
