#include "coordinator/dispatch/job_desk.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/status.h"

namespace turbofleet {
namespace {

absl::Status JobNotFound() {
  return MakeError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "name: there is no such job (any more)");
}

}  // namespace

absl::Status ExplainStore(const absl::Status& status) {
  if (status.ok() || !ReasonOf(status).empty()) return status;
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return JobNotFound();
    case absl::StatusCode::kAlreadyExists:
      return MakeError(status.code(), "REQUEST_ID_REUSED",
                       "job.request_id: a job of other content was created with it");
    case absl::StatusCode::kFailedPrecondition:
      return MakeError(status.code(), "JOB_RUNNING", "name: the job is running; cancel it first");
    case absl::StatusCode::kOutOfRange:
      return MakeError(status.code(), "IMAGES_RELEASED", "resume_token: what follows it was released");
    default:
      return WithRetryAfter(
          MakeError(absl::IsResourceExhausted(status) ? status.code() : absl::StatusCode::kUnavailable,
                    "STORE_UNAVAILABLE", absl::StrCat("the coordinator's store: ", std::string(status.message()))),
          absl::Seconds(1));
  }
}

JobDesk::JobDesk(const Options& options, Dispatcher* dispatcher, StoreQueue* store, Spool* spool, const Clock* clock,
                 std::function<std::string()> new_id)
    : options_(options),
      dispatcher_(dispatcher),
      store_(store),
      spool_(spool),
      clock_(clock),
      new_id_(std::move(new_id)) {}

JobView JobDesk::View(const JobRecord& record) const {
  return {.record = record, .waits_for_release = dispatcher_->WaitsForRelease(record.id)};
}

// ---------------------------------------------------------------------------------------------------------------------
// Creating

void JobDesk::Begin(JobOrder order, std::function<void(absl::StatusOr<Draft> draft)> callback) {
  std::vector<std::string> prompts = std::move(order.images.prompts);
  order.images.prompts.clear();
  order.images.tenant = order.tenant;
  const std::string input = order.images.init_image;
  absl::StatusOr<std::shared_ptr<JobSpec>> spec = dispatcher_->ResolveJob(std::move(order.images));
  if (!spec.ok()) {
    callback(spec.status());
    return;
  }
  Draft draft = {.spec = *spec, .id = new_id_(), .prompts = static_cast<int64_t>(prompts.size())};
  draft.spec->name = absl::StrCat("jobs/", draft.id);
  draft.spec->labels = std::move(order.labels);
  draft.spec->retention = order.retention.value_or(options_.retention);
  const int64_t images = draft.prompts * draft.spec->seeds_per_prompt;
  absl::Status allowed = images > options_.images_per_job_max
                             ? InvalidField("job.images", absl::StrCat("makes ", images, " images; a job may have ",
                                                                       options_.images_per_job_max))
                             : dispatcher_->CheckQuota(order.tenant, std::max<int64_t>(images, 1));
  if (allowed.ok()) allowed = spool_->CheckRoom();
  if (!allowed.ok()) {
    callback(ExplainStore(allowed));
    return;
  }
  const absl::Time now = clock_->Now();
  const JobRecord record = {.id = draft.id,
                            .request_id = std::move(order.request_id),
                            .spec = draft.spec,
                            .create_time = now,
                            .deadline = now + order.timeout};
  std::vector<std::string> not_dropped;
  {
    absl::MutexLock lock(&mu_);
    not_dropped.swap(not_dropped_);
  }
  const auto result = std::make_shared<absl::Status>();
  store_->Post(
      [record, prompts = std::move(prompts), input, not_dropped, result](JobStore& store, Spool&) {
        for (const std::string& id : not_dropped) store.DropDraft(id).IgnoreError();
        *result = store.BeginDraft(record);
        if (result->ok() && !input.empty()) *result = store.PutInput(record.spec->init_image_sha256, input);
        if (result->ok() && !prompts.empty()) *result = store.AppendPrompts(record.id, prompts);
      },
      [this, draft, not_dropped, result, callback = std::move(callback)](const absl::Status& status) {
        const absl::Status begun = status.ok() ? *result : status;
        if (!begun.ok()) DropLater(draft.id);
        if (!status.ok()) {
          for (const std::string& id : not_dropped) DropLater(id);
        }
        callback(begun.ok() ? absl::StatusOr<Draft>(draft) : ExplainStore(begun));
      });
}

void JobDesk::Append(Draft* draft, std::vector<std::string> prompts, StatusCallback callback) {
  draft->prompts += static_cast<int64_t>(prompts.size());
  const int64_t images = draft->prompts * draft->spec->seeds_per_prompt;
  if (images > options_.images_per_job_max) {
    callback(InvalidField(
        "prompts", absl::StrCat("make ", images, " images by now; a job may have ", options_.images_per_job_max)));
    return;
  }
  const auto result = std::make_shared<absl::Status>();
  store_->Post([id = draft->id, prompts = std::move(prompts), result](
                   JobStore& store, Spool&) { *result = store.AppendPrompts(id, prompts); },
               [result, callback = std::move(callback)](const absl::Status& status) {
                 callback(ExplainStore(status.ok() ? *result : status));
               });
}

void JobDesk::Submit(const Draft& draft, const std::string& fingerprint, JobCallback callback) {
  if (draft.prompts == 0) {
    Drop(draft);
    callback(InvalidField("prompts", "is empty; give 1 or more"));
    return;
  }
  const absl::Status allowed =
      dispatcher_->CheckQuota(draft.spec->tenant, draft.prompts * draft.spec->seeds_per_prompt);
  if (!allowed.ok()) {
    Drop(draft);
    callback(allowed);
    return;
  }
  const auto result = std::make_shared<absl::StatusOr<JobRecord>>(absl::UnknownError("not run"));
  store_->Post(
      [id = draft.id, fingerprint, result](JobStore& store, Spool&) { *result = store.Submit(id, fingerprint); },
      [this, id = draft.id, result, callback = std::move(callback)](const absl::Status& status) {
        const absl::Status submitted = status.ok() ? result->status() : status;
        if (!submitted.ok()) {
          DropLater(id);
          callback(ExplainStore(submitted));
          return;
        }
        dispatcher_->JobStarted(**result);
        callback(View(**result));
      });
}

void JobDesk::Drop(const Draft& draft) {
  store_->Post([id = draft.id](JobStore& store, Spool&) { store.DropDraft(id).IgnoreError(); },
               [this, id = draft.id](const absl::Status& status) {
                 if (!status.ok()) DropLater(id);
               });
}

void JobDesk::DropLater(const std::string& id) {
  absl::MutexLock lock(&mu_);
  not_dropped_.push_back(id);
}

// ---------------------------------------------------------------------------------------------------------------------
// Jobs that are there

void JobDesk::With(const std::string& tenant, const std::string& id, Change change, After after, JobCallback callback) {
  struct Records {
    absl::StatusOr<JobRecord> before = absl::UnknownError("not run");
    absl::StatusOr<JobRecord> after = absl::UnknownError("not run");
  };
  const auto records = std::make_shared<Records>();
  store_->Post(
      [tenant, id, change = std::move(change), records](JobStore& store, Spool& spool) {
        records->before = store.Find(id);
        if (records->before.ok() && (*records->before).spec->tenant != tenant) records->before = JobNotFound();
        records->after = records->before.ok() ? change(store, spool, *records->before) : records->before.status();
      },
      [this, after = std::move(after), records, callback = std::move(callback)](const absl::Status& status) {
        const absl::Status changed = status.ok() ? records->after.status() : status;
        if (!changed.ok()) {
          callback(ExplainStore(changed));
          return;
        }
        if (after != nullptr) after(*records->before, *records->after);
        callback(View(*records->after));
      });
}

void JobDesk::Get(const std::string& tenant, const std::string& id, JobCallback callback) {
  With(tenant, id, [](JobStore&, Spool&, const JobRecord& job) { return job; }, nullptr, std::move(callback));
}

void JobDesk::List(const JobQuery& query, int32_t max, JobsCallback callback) {
  const auto result = std::make_shared<absl::StatusOr<std::vector<JobRecord>>>(absl::UnknownError("not run"));
  store_->Post([query, max, result](JobStore& store, Spool&) { *result = store.List(query, max); },
               [this, result, callback = std::move(callback)](const absl::Status& status) {
                 const absl::Status listed = status.ok() ? result->status() : status;
                 if (!listed.ok()) {
                   callback(ExplainStore(listed));
                   return;
                 }
                 std::vector<JobView> views;
                 for (const JobRecord& record : **result) views.push_back(View(record));
                 callback(std::move(views));
               });
}

void JobDesk::Cancel(const std::string& tenant, const std::string& id, JobCallback callback) {
  With(
      tenant, id,
      [now = clock_->Now()](JobStore& store, Spool&, const JobRecord& job) {
        return store.End(job.id, JobState::kCancelled, now);
      },
      [this](const JobRecord& /*before*/, const JobRecord& after) { dispatcher_->JobEnded(after); },
      std::move(callback));
}

void JobDesk::Delete(const std::string& tenant, const std::string& id, StatusCallback callback) {
  With(
      tenant, id,
      [](JobStore& store, Spool&, const JobRecord& job) -> absl::StatusOr<JobRecord> {
        TURBOFLEET_RETURN_IF_ERROR(store.Delete(job.id).status());
        return job;
      },
      [this](const JobRecord& before, const JobRecord& /*after*/) {
        spool_->RemoveJob(before.id);
        dispatcher_->JobDeleted(before);
      },
      [callback = std::move(callback)](const absl::StatusOr<JobView>& job) { callback(job.status()); });
}

void JobDesk::Release(const std::string& tenant, const std::string& id, WatchPosition position, JobCallback callback) {
  const auto packs = std::make_shared<std::vector<std::string>>();
  With(
      tenant, id,
      [position, packs](JobStore& store, Spool& spool, const JobRecord& job) -> absl::StatusOr<JobRecord> {
        int64_t sequence = position.position;
        if (position.ordered) {
          TURBOFLEET_ASSIGN_OR_RETURN(sequence,
                                      store.SequenceBeforeIndex(job.id, static_cast<int32_t>(position.position)));
        }
        if (sequence > job.LastSequence()) {
          return InvalidField("resume_token", "was not given out for this job");
        }
        TURBOFLEET_ASSIGN_OR_RETURN(*packs, store.ReleaseResults(job.id, sequence));
        for (const std::string& pack : *packs) spool.Seal(pack);
        return store.Find(job.id);
      },
      [this, packs](const JobRecord& before, const JobRecord& after) {
        for (const std::string& pack : *packs) spool_->RemovePack(pack);
        dispatcher_->JobReleased(after, before.bytes_retained - after.bytes_retained);
      },
      std::move(callback));
}

}  // namespace turbofleet
