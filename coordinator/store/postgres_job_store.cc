#include "coordinator/store/postgres_job_store.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "coordinator/store/codec.h"
#include "coordinator/store/commit_plan.h"
#include "coordinator/store/postgres_schema.h"

// The columns that RecordsOf() reads, before the spec.
#define TURBOFLEET_JOB_COLUMNS                                                                       \
  "id, tenant, request_id, state, create_time, deadline, end_time, delete_time, completed, failed, " \
  "bytes_retained, released, prompts"

namespace turbofleet {
namespace {

absl::Status NoJob(const std::string& id) { return absl::NotFoundError(absl::StrCat("there is no job ", id)); }
absl::Status NoDraft(const std::string& id) { return absl::NotFoundError(absl::StrCat("there is no draft ", id)); }

// 0 is a draft.
int64_t StateNumber(JobState state) { return static_cast<int64_t>(state) + 1; }

std::optional<int64_t> NumberOf(absl::Time time) {
  return time == absl::InfiniteFuture() ? std::nullopt : std::optional(absl::ToUnixNanos(time));
}

absl::Time TimeOf(const PostgresRows& rows, int row, int column) {
  return rows.IsNull(row, column) ? absl::InfiniteFuture() : absl::FromUnixNanos(rows.Number(row, column));
}

bool IsIdentifier(const std::string& name) {
  return !name.empty() && name.size() <= 63 && !absl::ascii_isdigit(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_'; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<PostgresJobStore>> PostgresJobStore::Open(const Options& options) {
  if (!IsIdentifier(options.schema)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", options.schema, "\" is no name for a schema: use a-z, 0-9, _"));
  }
  auto store = std::unique_ptr<PostgresJobStore>(new PostgresJobStore(options));
  TURBOFLEET_RETURN_IF_ERROR(store->Connect());
  TURBOFLEET_RETURN_IF_ERROR(MigratePostgres(*store->connection_, options.schema));
  TURBOFLEET_RETURN_IF_ERROR(store->BeginLife());
  return store;
}

absl::Status PostgresJobStore::Connect() {
  connection_.reset();
  const int64_t reply_ms = absl::ToInt64Milliseconds(options_.reply_timeout);
  TURBOFLEET_ASSIGN_OR_RETURN(
      connection_,
      PostgresConnection::Open(
          options_.conninfo,
          absl::StrCat("set search_path to ", options_.schema, "; set client_encoding to utf8; ",
                       "set default_transaction_isolation to 'read committed'; set synchronous_commit to on; ",
                       "set statement_timeout to ", reply_ms, "; set idle_in_transaction_session_timeout to ",
                       absl::ToInt64Milliseconds(options_.idle_timeout)),
          options_.reply_timeout));
  return absl::OkStatus();
}

absl::Status PostgresJobStore::BeginLife() {
  TURBOFLEET_RETURN_IF_ERROR(connection_->Run("begin").status());
  TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows before,
                              connection_->Run("select incarnation from coordinator where id = $1 for update",
                                               PostgresValues().Text(options_.coordinator)));
  if (before.count() > 0) TURBOFLEET_RETURN_IF_ERROR(Release({before.Text(0, 0)}).status());
  connection_->Queue(
      "insert into coordinator(id, incarnation, lease_end) "
      "values($1, $2, clock_timestamp() + make_interval(secs => $3 / 1e6)) "
      "on conflict(id) do update set incarnation = excluded.incarnation, lease_end = excluded.lease_end",
      PostgresValues()
          .Text(options_.coordinator)
          .Text(options_.incarnation)
          .Number(absl::ToInt64Microseconds(options_.lease_duration)));
  return connection_->Run("commit").status();
}

absl::Status PostgresJobStore::BeginTransaction() {
  if (connection_ == nullptr || connection_->broken()) TURBOFLEET_RETURN_IF_ERROR(Connect());
  in_change_ = true;
  // They travel with the first statement.
  connection_->DropQueued();
  connection_->Queue("begin");
  connection_->Queue("select fence($1, $2)", PostgresValues().Text(options_.coordinator).Text(options_.incarnation));
  return absl::OkStatus();
}

absl::Status PostgresJobStore::CommitTransaction() {
  const absl::Status status = Run("commit").status();
  if (status.ok()) in_change_ = false;
  return status;
}

void PostgresJobStore::RollBackTransaction() {
  in_change_ = false;
  connection_->DropQueued();
  // A session that is lost rolls back by itself.
  if (!connection_->broken() && !connection_->Run("rollback").ok()) connection_.reset();
}

absl::StatusOr<PostgresRows> PostgresJobStore::Run(const char* sql, const PostgresValues& values) {
  if (!in_change_ && (connection_ == nullptr || connection_->broken())) TURBOFLEET_RETURN_IF_ERROR(Connect());
  return connection_->Run(sql, values);
}

absl::Status PostgresJobStore::Renew() {
  return Read([&]() -> absl::Status {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("update coordinator set lease_end = clock_timestamp() + make_interval(secs => $3 / 1e6) "
            "where id = $1 and incarnation = $2 returning 1",
            PostgresValues()
                .Text(options_.coordinator)
                .Text(options_.incarnation)
                .Number(absl::ToInt64Microseconds(options_.lease_duration))));
    if (rows.count() > 0) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat("another life has taken over from coordinator ", options_.coordinator));
  });
}

absl::StatusOr<int64_t> PostgresJobStore::TakeOverFromDead() {
  return Write([&]() -> absl::StatusOr<int64_t> {
    // Waits for what they are changing right now.
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("delete from coordinator where id <> $1 and lease_end < clock_timestamp() returning incarnation",
            PostgresValues().Text(options_.coordinator)));
    if (rows.count() == 0) return 0;
    std::vector<std::string> incarnations;
    for (int i = 0; i < rows.count(); ++i) incarnations.push_back(rows.Text(i, 0));
    return Release(incarnations);
  });
}

absl::StatusOr<int64_t> PostgresJobStore::Release(const std::vector<std::string>& incarnations) {
  TURBOFLEET_ASSIGN_OR_RETURN(
      const PostgresRows freed,
      connection_->Run("with freed as (update shard set owner = null where owner = any($1) and not done returning 1) "
                       "select count(*) from freed",
                       PostgresValues().Texts(incarnations)));
  TURBOFLEET_ASSIGN_OR_RETURN(
      const PostgresRows drafts,
      connection_->Run("select id, init_image from job where state = 0 and draft_of = any($1) for update",
                       PostgresValues().Texts(incarnations)));
  for (int i = 0; i < drafts.count(); ++i) {
    TURBOFLEET_RETURN_IF_ERROR(DeleteRow(drafts.Text(i, 0), drafts.Text(i, 1)));
  }
  return freed.Number(0, 0);
}

absl::StatusOr<std::vector<JobRecord>> PostgresJobStore::RecordsOf(const PostgresRows& rows) {
  std::vector<JobRecord> records;
  for (int i = 0; i < rows.count(); ++i) {
    JobRecord record = {.id = rows.Text(i, 0),
                        .request_id = rows.Text(i, 2),
                        .spec = nullptr,
                        .state = static_cast<JobState>(rows.Number(i, 3) - 1),
                        .create_time = TimeOf(rows, i, 4),
                        .deadline = TimeOf(rows, i, 5),
                        .end_time = TimeOf(rows, i, 6),
                        .delete_time = TimeOf(rows, i, 7),
                        .images_completed = rows.Number(i, 8),
                        .images_failed = rows.Number(i, 9),
                        .bytes_retained = rows.Number(i, 10),
                        .released_sequence = rows.Number(i, 11)};
    if (!rows.IsNull(i, 13)) {
      TURBOFLEET_ASSIGN_OR_RETURN(record.spec, DecodeSpec(rows.Text(i, 13), record.id, rows.Text(i, 1),
                                                          static_cast<int32_t>(rows.Number(i, 12))));
    }
    records.push_back(std::move(record));
  }
  return records;
}

absl::StatusOr<PostgresJobStore::JobsById> PostgresJobStore::ReadJobs(const std::vector<std::string>& ids, bool lock) {
  std::map<std::string, std::shared_ptr<const JobSpec>> known;
  std::vector<std::string> known_ids;
  for (const std::string& id : ids) {
    if (auto spec = specs_.Find(id); spec != nullptr && known.emplace(id, spec).second) known_ids.push_back(id);
  }
  // Specs may be large, and never change. All lock in the order of ids, so that nobody waits in a circle.
  TURBOFLEET_ASSIGN_OR_RETURN(
      const PostgresRows rows,
      Run(lock ? "select " TURBOFLEET_JOB_COLUMNS
                 ", case when id = any($2) then null else spec end from job where id = any($1) and state > 0 "
                 "order by id for update"
               : "select " TURBOFLEET_JOB_COLUMNS
                 ", case when id = any($2) then null else spec end from job where id = any($1) and state > 0",
          PostgresValues().Texts(ids).Texts(known_ids)));
  TURBOFLEET_ASSIGN_OR_RETURN(std::vector<JobRecord> records, RecordsOf(rows));
  JobsById jobs;
  for (JobRecord& record : records) {
    if (record.spec == nullptr) {
      record.spec = known.at(record.id);
    } else {
      specs_.Insert(record.id, record.spec);
    }
    jobs.emplace(record.id, std::move(record));
  }
  return jobs;
}

absl::StatusOr<JobRecord> PostgresJobStore::FindForChange(const std::string& id) {
  TURBOFLEET_ASSIGN_OR_RETURN(JobsById jobs, ReadJobs({id}, /*lock=*/true));
  if (jobs.empty()) return NoJob(id);
  return std::move(jobs.begin()->second);
}

absl::Status PostgresJobStore::BeginDraft(const JobRecord& record) {
  return Write([&]() -> absl::Status {
    const JobSpec& spec = *record.spec;
    Queue("delete from job where id = $1 and state = -1", PostgresValues().Text(record.id));
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("insert into job(id, tenant, request_id, state, draft_of, create_time, deadline, prompts, images, "
            "next_shard, completed, failed, bytes_retained, released, init_image, fingerprint, spec) "
            "values($1, $2, $3, 0, $4, $5, $6, 0, 0, 0, 0, 0, 0, 0, $7, '', $8) on conflict(id) do nothing returning 1",
            PostgresValues()
                .Text(record.id)
                .Text(spec.tenant)
                .Bytes(record.request_id)
                .Text(options_.incarnation)
                .OptionalNumber(NumberOf(record.create_time))
                .OptionalNumber(NumberOf(record.deadline))
                .Text(spec.init_image_sha256)
                .Bytes(EncodeJobSpec(spec))));
    if (rows.count() == 0) return absl::AlreadyExistsError(absl::StrCat("there is a job ", record.id));
    std::vector<std::string> keys;
    std::vector<std::string> values;
    for (const auto& [key, value] : spec.labels) {
      keys.push_back(key);
      values.push_back(value);
    }
    if (!keys.empty()) {
      Queue("insert into label(job, key, value) select $1, * from unnest($2::bytea[], $3::bytea[])",
            PostgresValues().Text(record.id).ByteStrings(keys).ByteStrings(values));
    }
    return absl::OkStatus();
  });
}

absl::Status PostgresJobStore::AppendPrompts(const std::string& id, absl::Span<const std::string> prompts) {
  return Write([&]() -> absl::Status {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows draft,
        Run("select prompts from job where id = $1 and state = 0 for update", PostgresValues().Text(id)));
    if (draft.count() == 0) return NoDraft(id);
    int64_t first = draft.Number(0, 0);
    for (const absl::Span<const std::string> part : SplitPrompts(prompts)) {
      const auto count = static_cast<int64_t>(part.size());
      Queue("insert into prompt(job, first, count, prompts) values($1, $2, $3, $4)",
            PostgresValues().Text(id).Number(first).Number(count).Bytes(EncodePrompts(part)));
      first += count;
    }
    Queue("update job set prompts = $2 where id = $1", PostgresValues().Text(id).Number(first));
    return absl::OkStatus();
  });
}

absl::Status PostgresJobStore::PutInput(const std::string& sha256, const std::string& content) {
  return Write([&]() -> absl::Status {
    // The update locks the row until the end, against a deletion that does not know this job yet.
    TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows rows,
                                Run("insert into input(sha256, content) select $1, $2 "
                                    "where exists (select 1 from job where init_image = $1 and init_image <> '') "
                                    "on conflict(sha256) do update set sha256 = excluded.sha256 returning 1",
                                    PostgresValues().Text(sha256).Bytes(content)));
    if (rows.count() > 0) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("no job uses the start picture ", sha256));
  });
}

absl::StatusOr<JobRecord> PostgresJobStore::Submit(const std::string& id, const std::string& fingerprint) {
  return Write([&]() -> absl::StatusOr<JobRecord> {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows draft,
        Run("select tenant, request_id, prompts, spec, init_image from job where id = $1 and state = 0 for update",
            PostgresValues().Text(id)));
    if (draft.count() == 0) return NoDraft(id);
    const std::string tenant = draft.Text(0, 0);
    const std::string request_id = draft.Text(0, 1);
    if (!request_id.empty()) {
      // One at a time, also through other coordinators.
      Queue("select pg_advisory_xact_lock(hashtextextended($1, 0))", PostgresValues().Text(tenant));
      TURBOFLEET_ASSIGN_OR_RETURN(
          const PostgresRows earlier,
          Run("select id, fingerprint from job where tenant = $1 and request_id = $2 and state > 0 and "
              "request_id <> ''",
              PostgresValues().Text(tenant).Bytes(request_id)));
      if (earlier.count() > 0) {
        TURBOFLEET_RETURN_IF_ERROR(DeleteRow(id, draft.Text(0, 4)));
        if (earlier.Text(0, 1) == fingerprint) return Find(earlier.Text(0, 0));
        return absl::AlreadyExistsError(
            absl::StrCat("the request was made before with other contents, as job ", earlier.Text(0, 0)));
      }
    }
    const int64_t prompts = draft.Number(0, 2);
    TURBOFLEET_ASSIGN_OR_RETURN(const std::shared_ptr<const JobSpec> spec,
                                DecodeSpec(draft.Text(0, 3), id, tenant, static_cast<int32_t>(prompts)));
    const int64_t images = prompts * spec->seeds_per_prompt;
    if (images == 0 || images > kJobImagesMax) {
      return absl::FailedPreconditionError(absl::StrCat("a job cannot have ", images, " images"));
    }
    Queue("update job set state = 1, draft_of = '', fingerprint = $2, images = $3 where id = $1",
          PostgresValues().Text(id).Bytes(fingerprint).Number(images));
    return Find(id);
  });
}

absl::Status PostgresJobStore::DropDraft(const std::string& id) {
  return Write([&]() -> absl::Status {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows draft,
        Run("select init_image from job where id = $1 and state = 0 for update", PostgresValues().Text(id)));
    return draft.count() == 0 ? absl::OkStatus() : DeleteRow(id, draft.Text(0, 0));
  });
}

absl::Status PostgresJobStore::DeleteRow(const std::string& id, const std::string& input) {
  specs_.Clear();
  if (!input.empty()) {
    connection_->Queue("select 1 from input where sha256 = $1 for update", PostgresValues().Text(input));
  }
  connection_->Queue(
      "update job set state = -1, garbage = true, init_image = '', delete_time = null, draft_of = '' where id = $1",
      PostgresValues().Text(id));
  NoteGarbage();
  return connection_
      ->Run(
          "delete from input where sha256 = $1 and not exists "
          "(select 1 from job where init_image = $1 and init_image <> '')",
          PostgresValues().Text(input))
      .status();
}

absl::StatusOr<JobRecord> PostgresJobStore::Find(const std::string& id) {
  return Read([&]() -> absl::StatusOr<JobRecord> {
    TURBOFLEET_ASSIGN_OR_RETURN(JobsById jobs, ReadJobs({id}, /*lock=*/false));
    if (jobs.empty()) return NoJob(id);
    return std::move(jobs.begin()->second);
  });
}

absl::StatusOr<std::vector<JobRecord>> PostgresJobStore::List(const JobQuery& query, int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<JobRecord>> {
    std::vector<std::string> keys;
    std::vector<std::string> values;
    for (const auto& [key, value] : query.labels) {
      keys.push_back(key);
      values.push_back(value);
    }
    PostgresValues all;
    all.Number(query.after.has_value() ? absl::ToUnixNanos(query.after->first) : std::numeric_limits<int64_t>::max())
        .Text(query.after.has_value() ? query.after->second : "")
        .Number(query.state.has_value() ? StateNumber(*query.state) : 0)
        .ByteStrings(keys)
        .ByteStrings(values)
        .Number(std::max(max, 0));
    if (query.tenant.has_value()) all.Text(*query.tenant);
#define TURBOFLEET_LIST_REST                                                                                  \
  " create_time <= $1 and (create_time < $1 or id > $2) and ($3 = 0 or state = $3) and not exists "           \
  "(select 1 from unnest($4::bytea[], $5::bytea[]) wanted(k, v) where not exists (select 1 from label where " \
  "label.job = job.id and label.key = wanted.k and label.value = wanted.v)) order by create_time desc, id limit $6"
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run(query.tenant.has_value() ? "select " TURBOFLEET_JOB_COLUMNS
                                       ", spec from job where state > 0 and tenant = $7 and" TURBOFLEET_LIST_REST
                                     : "select " TURBOFLEET_JOB_COLUMNS
                                       ", spec from job where state > 0 and" TURBOFLEET_LIST_REST,
            all));
#undef TURBOFLEET_LIST_REST
    return RecordsOf(rows);
  });
}

absl::StatusOr<std::vector<JobRecord>> PostgresJobStore::ListRunning(const std::string& after_id, int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<JobRecord>> {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select " TURBOFLEET_JOB_COLUMNS ", spec from job where state = 1 and id > $1 order by id limit $2",
            PostgresValues().Text(after_id).Number(std::max(max, 0))));
    return RecordsOf(rows);
  });
}

absl::StatusOr<std::vector<std::string>> PostgresJobStore::ListDue(absl::Time now, int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<std::string>> {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select id from job where delete_time is not null and delete_time <= $1 order by delete_time, id limit $2",
            PostgresValues().Number(absl::ToUnixNanos(now)).Number(std::max(max, 0))));
    std::vector<std::string> ids;
    for (int i = 0; i < rows.count(); ++i) ids.push_back(rows.Text(i, 0));
    return ids;
  });
}

absl::StatusOr<std::map<std::string, TenantUsage>> PostgresJobStore::Usage() {
  return Read([&]() -> absl::StatusOr<std::map<std::string, TenantUsage>> {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select tenant, count(*), sum(bytes_retained)::int8 from job where state > 0 group by tenant"));
    std::map<std::string, TenantUsage> usage;
    for (int i = 0; i < rows.count(); ++i) {
      usage[rows.Text(i, 0)] = {.jobs = rows.Number(i, 1), .bytes_retained = rows.Number(i, 2)};
    }
    return usage;
  });
}

absl::StatusOr<std::vector<std::string>> PostgresJobStore::ReadPrompts(const std::string& id, int32_t first,
                                                                       int32_t count) {
  return Read([&]() -> absl::StatusOr<std::vector<std::string>> {
    const int64_t end = static_cast<int64_t>(first) + count;
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select job.prompts, prompt.first, prompt.prompts from job left join prompt on prompt.job = job.id and "
            "prompt.first > $2 and prompt.first < $3 and prompt.first + prompt.count > $4 "
            "where job.id = $1 and job.state > 0 order by prompt.first",
            PostgresValues().Text(id).Number(int64_t{first} - kPromptsPerRow).Number(end).Number(first)));
    if (rows.count() == 0) return NoJob(id);
    if (first < 0 || count < 0 || end > rows.Number(0, 0)) {
      return absl::OutOfRangeError(absl::StrCat("job ", id, " has ", rows.Number(0, 0), " prompts"));
    }
    std::vector<std::string> prompts;
    for (int row = 0; row < rows.count() && !rows.IsNull(row, 1); ++row) {
      TURBOFLEET_ASSIGN_OR_RETURN(std::vector<std::string> part, DecodePrompts(rows.Text(row, 2)));
      for (size_t i = 0; i < part.size(); ++i) {
        const int64_t index = rows.Number(row, 1) + static_cast<int64_t>(i);
        if (index >= first && index < end) prompts.push_back(std::move(part[i]));
      }
    }
    if (static_cast<int64_t>(prompts.size()) != count) {
      return absl::DataLossError(absl::StrCat("prompts of job ", id, " are missing"));
    }
    return prompts;
  });
}

absl::StatusOr<std::string> PostgresJobStore::ReadInput(const std::string& sha256) {
  return Read([&]() -> absl::StatusOr<std::string> {
    TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows rows,
                                Run("select content from input where sha256 = $1", PostgresValues().Text(sha256)));
    if (rows.count() == 0) return absl::NotFoundError(absl::StrCat("there is no start picture ", sha256));
    return rows.Text(0, 0);
  });
}

// Each of these looks at the job and its results at the same moment, as others may release or delete them meanwhile.
absl::StatusOr<std::vector<NumberedResult>> PostgresJobStore::ReadResults(const std::string& id, int64_t after_sequence,
                                                                          int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<NumberedResult>> {
    // A row has at most kShardImages results.
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select job.released, result.first_sequence, result.results from job left join result on "
            "result.job = job.id and last_sequence > $2 and last_sequence <= $2 + $3 + $4 and "
            "first_sequence <= $2 + $3 where job.id = $1 and job.state > 0 order by last_sequence",
            PostgresValues().Text(id).Number(after_sequence).Number(std::max(max, 0)).Number(kShardImages)));
    if (rows.count() == 0) return NoJob(id);
    if (after_sequence < rows.Number(0, 0)) {
      return absl::OutOfRangeError(
          absl::StrCat("the results up to ", rows.Number(0, 0), " of job ", id, " are released"));
    }
    std::vector<NumberedResult> results;
    for (int i = 0; i < rows.count() && !rows.IsNull(i, 1); ++i) {
      TURBOFLEET_RETURN_IF_ERROR(AppendResults(rows.Text(i, 2), rows.Number(i, 1), after_sequence, results));
    }
    if (static_cast<int64_t>(results.size()) > max) results.resize(static_cast<size_t>(std::max(max, 0)));
    return results;
  });
}

absl::StatusOr<std::vector<NumberedResult>> PostgresJobStore::ReadShardResults(const std::string& id, int32_t shard) {
  return Read([&]() -> absl::StatusOr<std::vector<NumberedResult>> {
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select job.released, result.first_sequence, result.results from job left join result on "
            "result.job = job.id and result.shard = $2 where job.id = $1 and job.state > 0",
            PostgresValues().Text(id).Number(shard)));
    if (rows.count() == 0) return NoJob(id);
    std::vector<NumberedResult> results;
    for (int i = 0; i < rows.count() && !rows.IsNull(i, 1); ++i) {
      TURBOFLEET_RETURN_IF_ERROR(AppendResults(rows.Text(i, 2), rows.Number(i, 1), rows.Number(i, 0), results));
    }
    std::sort(results.begin(), results.end(),
              [](const NumberedResult& a, const NumberedResult& b) { return a.result.index < b.result.index; });
    return results;
  });
}

absl::StatusOr<int64_t> PostgresJobStore::SequenceBeforeIndex(const std::string& id, int32_t index) {
  return Read([&]() -> absl::StatusOr<int64_t> {
    // Of the first row a part may be released, of the second none is.
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select job.released, job.completed + job.failed, found.first_sequence, found.results from job "
            "left join lateral (select first_sequence, last_sequence, results from result where result.job = job.id "
            "and last_sequence > job.released and index_max >= $2 order by last_sequence limit 2) found on true "
            "where job.id = $1 and job.state > 0 order by found.last_sequence",
            PostgresValues().Text(id).Number(index)));
    if (rows.count() == 0) return NoJob(id);
    for (int i = 0; i < rows.count() && !rows.IsNull(i, 2); ++i) {
      TURBOFLEET_ASSIGN_OR_RETURN(const std::optional<int64_t> sequence,
                                  SequenceBefore(rows.Text(i, 3), rows.Number(i, 2), rows.Number(i, 0), index));
      if (sequence.has_value()) return *sequence;
    }
    return rows.Number(0, 1);
  });
}

absl::StatusOr<std::vector<ClaimedShard>> PostgresJobStore::Claim(const std::string& id, int32_t max) {
  return Write([&]() -> absl::StatusOr<std::vector<ClaimedShard>> {
    // The job's row is locked, so that coordinators claim one after the other.
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, FindForChange(id));
    if (record.state != JobState::kRunning) return NoJob(id);
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select job.next_shard, free.number, free.ended from job left join lateral (select number, ended from "
            "shard where shard.job = job.id and owner is null order by number limit $2) free on true "
            "where job.id = $1 order by free.number",
            PostgresValues().Text(id).Number(std::max(max, 0))));
    std::vector<ClaimedShard> claimed;
    for (int i = 0; i < rows.count() && !rows.IsNull(i, 1); ++i) {
      TURBOFLEET_ASSIGN_OR_RETURN(const EndedImages ended, DecodeEnded(rows.Text(i, 2)));
      claimed.push_back(MakeClaim(*record.spec, static_cast<int32_t>(rows.Number(i, 1)), ended));
    }
    int64_t next = rows.Number(0, 0);
    for (; static_cast<int64_t>(claimed.size()) < max && next < ShardCountOf(*record.spec); ++next) {
      claimed.push_back(MakeClaim(*record.spec, static_cast<int32_t>(next), {}));
    }
    if (claimed.empty()) return claimed;
    std::vector<int64_t> numbers;
    for (const ClaimedShard& shard : claimed) numbers.push_back(shard.number);
    Queue(
        "insert into shard(job, number, owner, done, ended) select $1, n, $2, false, '' from unnest($3::int8[]) n "
        "on conflict(job, number) do update set owner = excluded.owner",
        PostgresValues().Text(id).Text(options_.incarnation).Numbers(numbers));
    Queue("update job set next_shard = $2 where id = $1", PostgresValues().Text(id).Number(next));
    return claimed;
  });
}

absl::Status PostgresJobStore::Unclaim(const std::string& id, absl::Span<const int32_t> shards) {
  return Write([&]() -> absl::Status {
    Queue("update shard set owner = null where job = $1 and number = any($2) and owner = $3 and not done",
          PostgresValues().Text(id).Numbers({shards.begin(), shards.end()}).Text(options_.incarnation));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> PostgresJobStore::CommitAll(
    absl::Span<const ShardResults> results, absl::Time now) {
  return Write([&]() -> absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> {
    std::set<std::string> ids;
    std::set<ShardKey> keys;
    for (const ShardResults& one : results) {
      ids.insert(one.job);
      keys.emplace(one.job, one.shard);
    }
    TURBOFLEET_ASSIGN_OR_RETURN(JobsById jobs, ReadJobs({ids.begin(), ids.end()}, /*lock=*/true));
    std::vector<std::string> shard_jobs;
    std::vector<int64_t> shard_numbers;
    for (const auto& [job, number] : keys) {
      shard_jobs.push_back(job);
      shard_numbers.push_back(number);
    }
    TURBOFLEET_ASSIGN_OR_RETURN(
        const PostgresRows rows,
        Run("select shard.job, shard.number, shard.ended from unnest($1::text[], $2::int8[]) wanted(job, number) "
            "join shard on shard.job = wanted.job and shard.number = wanted.number where shard.owner = $3",
            PostgresValues().Texts(shard_jobs).Numbers(shard_numbers).Text(options_.incarnation)));
    std::map<ShardKey, EndedImages> shards;
    for (int i = 0; i < rows.count(); ++i) {
      TURBOFLEET_ASSIGN_OR_RETURN(const EndedImages ended, DecodeEnded(rows.Text(i, 2)));
      shards[{rows.Text(i, 0), static_cast<int32_t>(rows.Number(i, 1))}] = ended;
    }
    CommitPlan plan(std::move(jobs), std::move(shards));
    std::vector<absl::StatusOr<CommitReceipt>> receipts = plan.Apply(results, now);
    QueueCommit(plan);
    return receipts;
  });
}

void PostgresJobStore::QueueCommit(const CommitPlan& plan) {
  if (plan.rows().empty()) return;
  std::vector<std::string> jobs, blobs;
  std::vector<int64_t> shards, firsts, lasts, indexes;
  for (const CommitPlan::ResultRow& row : plan.rows()) {
    jobs.push_back(row.shard.first);
    shards.push_back(row.shard.second);
    firsts.push_back(row.first_sequence);
    lasts.push_back(row.last_sequence);
    indexes.push_back(row.index_max);
    blobs.push_back(EncodeResults(row.results));
  }
  Queue(
      "insert into result(job, shard, first_sequence, last_sequence, index_max, results) "
      "select * from unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::bytea[])",
      PostgresValues().Texts(jobs).Numbers(shards).Numbers(firsts).Numbers(lasts).Numbers(indexes).ByteStrings(blobs));

  std::vector<std::string> pack_jobs, names;
  std::vector<int64_t> bytes, pack_lasts;
  for (const auto& [key, use] : plan.packs()) {
    pack_jobs.push_back(key.first);
    names.push_back(key.second);
    bytes.push_back(use.bytes);
    pack_lasts.push_back(use.last_sequence);
  }
  Queue(
      "insert into pack(job, name, bytes, last_sequence) "
      "select * from unnest($1::text[], $2::text[], $3::int8[], $4::int8[]) on conflict(job, name) do update "
      "set bytes = pack.bytes + excluded.bytes, last_sequence = excluded.last_sequence",
      PostgresValues().Texts(pack_jobs).Texts(names).Numbers(bytes).Numbers(pack_lasts));

  std::vector<std::string> shard_jobs, ended;
  std::vector<int64_t> numbers, done;
  for (const ShardKey& key : plan.changed_shards()) {
    shard_jobs.push_back(key.first);
    numbers.push_back(key.second);
    ended.push_back(EncodeEnded(plan.ended(key)));
    done.push_back(plan.IsDone(key) ? 1 : 0);
  }
  Queue(
      "update shard set ended = new.ended, done = new.done = 1 "
      "from unnest($1::text[], $2::int8[], $3::bytea[], $4::int8[]) new(job, number, ended, done) "
      "where shard.job = new.job and shard.number = new.number",
      PostgresValues().Texts(shard_jobs).Numbers(numbers).ByteStrings(ended).Numbers(done));

  std::vector<JobRecord> records;
  for (const std::string& id : plan.changed_jobs()) records.push_back(plan.job(id));
  QueueProgress(records);
}

void PostgresJobStore::QueueProgress(const std::vector<JobRecord>& records) {
  std::vector<std::string> ids, ended;
  std::vector<int64_t> states, completed, failed, bytes, released;
  std::vector<std::optional<int64_t>> ends, deletions;
  for (const JobRecord& record : records) {
    ids.push_back(record.id);
    states.push_back(StateNumber(record.state));
    ends.push_back(NumberOf(record.end_time));
    deletions.push_back(NumberOf(record.delete_time));
    completed.push_back(record.images_completed);
    failed.push_back(record.images_failed);
    bytes.push_back(record.bytes_retained);
    released.push_back(record.released_sequence);
    if (record.state != JobState::kRunning) ended.push_back(record.id);
  }
  Queue(
      "update job set state = new.state, end_time = new.end_time, delete_time = new.delete_time, "
      "completed = new.completed, failed = new.failed, bytes_retained = new.bytes_retained, released = new.released "
      "from unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[]) "
      "new(id, state, end_time, delete_time, completed, failed, bytes_retained, released) where job.id = new.id",
      PostgresValues()
          .Texts(ids)
          .Numbers(states)
          .OptionalNumbers(ends)
          .OptionalNumbers(deletions)
          .Numbers(completed)
          .Numbers(failed)
          .Numbers(bytes)
          .Numbers(released));
  if (!ended.empty()) Queue("delete from shard where job = any($1)", PostgresValues().Texts(ended));
}

absl::StatusOr<JobRecord> PostgresJobStore::End(const std::string& id, JobState state, absl::Time now) {
  return Write([&]() -> absl::StatusOr<JobRecord> {
    TURBOFLEET_ASSIGN_OR_RETURN(JobRecord record, FindForChange(id));
    if (record.state != JobState::kRunning) return record;
    EndJob(record, state, now);
    QueueProgress({record});
    return record;
  });
}

absl::StatusOr<std::vector<std::string>> PostgresJobStore::ReleaseResults(const std::string& id, int64_t sequence) {
  return Write([&]() -> absl::StatusOr<std::vector<std::string>> {
    TURBOFLEET_ASSIGN_OR_RETURN(JobRecord record, FindForChange(id));
    if (sequence > record.LastSequence()) {
      return absl::OutOfRangeError(absl::StrCat("job ", id, " has ", record.LastSequence(), " results"));
    }
    std::vector<std::string> names;
    if (sequence <= record.released_sequence) return names;
    Queue("update job set garbage = true where id = $1", PostgresValues().Text(id));
    NoteGarbage();
    TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows rows,
                                Run("delete from pack where job = $1 and last_sequence <= $2 returning name, bytes",
                                    PostgresValues().Text(id).Number(sequence)));
    for (int i = 0; i < rows.count(); ++i) {
      names.push_back(rows.Text(i, 0));
      record.bytes_retained -= rows.Number(i, 1);
    }
    std::sort(names.begin(), names.end());
    record.released_sequence = sequence;
    QueueProgress({record});
    return names;
  });
}

absl::StatusOr<std::vector<std::string>> PostgresJobStore::Delete(const std::string& id) {
  return Write([&]() -> absl::StatusOr<std::vector<std::string>> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, FindForChange(id));
    if (record.state == JobState::kRunning) {
      return absl::FailedPreconditionError(absl::StrCat("job ", id, " is running"));
    }
    TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows rows,
                                Run("select name from pack where job = $1 order by name", PostgresValues().Text(id)));
    std::vector<std::string> names;
    for (int i = 0; i < rows.count(); ++i) names.push_back(rows.Text(i, 0));
    TURBOFLEET_RETURN_IF_ERROR(DeleteRow(id, record.spec->init_image_sha256));
    return names;
  });
}

absl::StatusOr<bool> PostgresJobStore::PurgeSome() {
  // Others may be at the next one.
  TURBOFLEET_ASSIGN_OR_RETURN(
      const PostgresRows job,
      Run("select id, state, released from job where garbage order by id limit 1 for update skip locked"));
  if (job.count() == 0) return false;
  const std::string id = job.Text(0, 0);
  const bool deleted = job.Number(0, 1) < 0;
  TURBOFLEET_ASSIGN_OR_RETURN(
      const PostgresRows results,
      Run("with gone as (delete from result where job = $1 and last_sequence in (select last_sequence from result "
          "where job = $1 and last_sequence <= $2 order by last_sequence limit $3) returning 1) "
          "select count(*) from gone",
          PostgresValues()
              .Text(id)
              .Number(deleted ? std::numeric_limits<int64_t>::max() : job.Number(0, 2))
              .Number(kPurgedRows)));
  if (results.Number(0, 0) == kPurgedRows) return true;
  if (!deleted) {
    Queue("update job set garbage = false where id = $1", PostgresValues().Text(id));
    return true;
  }
  TURBOFLEET_ASSIGN_OR_RETURN(
      const PostgresRows prompts,
      Run("with gone as (delete from prompt where job = $1 and first in (select first from prompt where job = $1 "
          "order by first limit $2) returning 1) select count(*) from gone",
          PostgresValues().Text(id).Number(kPurgedRows)));
  if (prompts.Number(0, 0) == kPurgedRows) return true;
  Queue("delete from job where id = $1", PostgresValues().Text(id));
  return true;
}

bool PostgresJobStore::Idle() {
  return has_garbage() && Write([] { return absl::OkStatus(); }).ok() && has_garbage();
}

}  // namespace turbofleet
