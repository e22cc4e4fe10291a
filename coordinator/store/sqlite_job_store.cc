#include "coordinator/store/sqlite_job_store.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "coordinator/store/codec.h"
#include "coordinator/store/commit_plan.h"
#include "coordinator/store/sqlite_schema.h"

// The columns that RecordOf() reads.
#define TURBOFLEET_JOB_COLUMNS                                                                       \
  "id, tenant, request_id, state, create_time, deadline, end_time, delete_time, completed, failed, " \
  "bytes_retained, released, prompts"

namespace turbofleet {
namespace {

constexpr int64_t kPageBytes = 4096;
// They may have a megabyte each.
constexpr int64_t kPurgedPromptRows = 8;

absl::Status NoJob(const std::string& id) { return absl::NotFoundError(absl::StrCat("there is no job ", id)); }

// 0 is a draft.
int64_t StateNumber(JobState state) { return static_cast<int64_t>(state) + 1; }

SqliteQuery& BindTime(SqliteQuery& query, absl::Time time) {
  return time == absl::InfiniteFuture() ? query.BindNull() : query.Bind(absl::ToUnixNanos(time));
}

absl::Time TimeOf(const SqliteQuery& row, int column) {
  return row.IsNull(column) ? absl::InfiniteFuture() : absl::FromUnixNanos(row.Number(column));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteJobStore>> SqliteJobStore::Open(const Options& options) {
  TURBOFLEET_ASSIGN_OR_RETURN(std::unique_ptr<SqliteConnection> connection, SqliteConnection::Open(options.path));
  if (options.bytes_max > 0) {
    TURBOFLEET_RETURN_IF_ERROR(
        connection->Execute(absl::StrCat("pragma max_page_count = ", options.bytes_max / kPageBytes)));
  }
  TURBOFLEET_RETURN_IF_ERROR(Annotate(MigrateSqlite(*connection), options.path));
  auto store = std::unique_ptr<SqliteJobStore>(new SqliteJobStore(std::move(connection)));
  TURBOFLEET_RETURN_IF_ERROR(Annotate(store->ReleaseAll(), options.path));
  return store;
}

absl::Status SqliteJobStore::BeginTransaction() { return SqliteQuery(*connection_, "begin immediate").Run(); }

absl::Status SqliteJobStore::CommitTransaction() {
  TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_, "commit").Run());
  connection_->Checkpoint(/*all=*/false);
  return absl::OkStatus();
}

void SqliteJobStore::RollBackTransaction() {
  // Some errors end the transaction themselves.
  if (connection_->in_transaction()) (void)SqliteQuery(*connection_, "rollback").Run();
}

absl::Status SqliteJobStore::ReleaseAll() {
  return Write([&]() -> absl::Status {
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_, "update job set state = -1, garbage = 1, init_image = '' where state = 0").Run());
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_,
                    "delete from input where sha256 not in (select init_image from job where init_image <> '')")
            .Run());
    return SqliteQuery(*connection_, "update shard set state = 0 where state = 1").Run();
  });
}

absl::Status SqliteJobStore::CheckDraft(const std::string& id) {
  SqliteQuery query(*connection_, "select 1 from job where id = ? and state = 0");
  TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Step());
  return found ? absl::OkStatus() : absl::NotFoundError(absl::StrCat("there is no draft ", id));
}

absl::StatusOr<JobRecord> SqliteJobStore::RecordOf(const SqliteQuery& row) {
  JobRecord record = {.id = row.Text(0),
                      .request_id = row.Text(2),
                      .spec = nullptr,
                      .state = static_cast<JobState>(row.Number(3) - 1),
                      .create_time = TimeOf(row, 4),
                      .deadline = TimeOf(row, 5),
                      .end_time = TimeOf(row, 6),
                      .delete_time = TimeOf(row, 7),
                      .images_completed = row.Number(8),
                      .images_failed = row.Number(9),
                      .bytes_retained = row.Number(10),
                      .released_sequence = row.Number(11)};
  TURBOFLEET_ASSIGN_OR_RETURN(record.spec, ReadSpec(record.id, row.Text(1), static_cast<int32_t>(row.Number(12))));
  return record;
}

absl::StatusOr<std::shared_ptr<const JobSpec>> SqliteJobStore::ReadSpec(const std::string& id,
                                                                        const std::string& tenant, int32_t prompts) {
  std::shared_ptr<const JobSpec> spec = specs_.Find(id);
  if (spec != nullptr) return spec;
  SqliteQuery query(*connection_, "select spec from job where id = ?");
  TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Step());
  if (!found) return NoJob(id);
  TURBOFLEET_ASSIGN_OR_RETURN(spec, DecodeSpec(query.Text(0), id, tenant, prompts));
  specs_.Insert(id, spec);
  return spec;
}

absl::Status SqliteJobStore::BeginDraft(const JobRecord& record) {
  return Write([&]() -> absl::Status {
    const JobSpec& spec = *record.spec;
    const std::string bytes = EncodeJobSpec(spec);
    const std::string no_fingerprint;
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_, "delete from job where id = ? and state = -1").Bind(record.id).Run());
    SqliteQuery query(*connection_,
                      "insert into job(id, tenant, request_id, state, create_time, deadline, prompts, images, "
                      "next_shard, completed, failed, bytes_retained, released, init_image, fingerprint, spec) "
                      "values(?, ?, ?, 0, ?, ?, 0, 0, 0, 0, 0, 0, 0, ?, ?, ?) on conflict(id) do nothing");
    query.Bind(record.id).Bind(spec.tenant).Bind(record.request_id);
    BindTime(query, record.create_time);
    BindTime(query, record.deadline);
    query.Bind(spec.init_image_sha256).BindBlob(no_fingerprint).BindBlob(bytes);
    TURBOFLEET_RETURN_IF_ERROR(query.Run());
    if (connection_->changes() == 0) return absl::AlreadyExistsError(absl::StrCat("there is a job ", record.id));
    for (const auto& [key, value] : spec.labels) {
      TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_, "insert into label(job, key, value) values(?, ?, ?)")
                                     .Bind(record.id)
                                     .Bind(key)
                                     .Bind(value)
                                     .Run());
    }
    return absl::OkStatus();
  });
}

absl::Status SqliteJobStore::AppendPrompts(const std::string& id, absl::Span<const std::string> prompts) {
  return Write([&]() -> absl::Status {
    TURBOFLEET_RETURN_IF_ERROR(CheckDraft(id));
    for (const absl::Span<const std::string> part : SplitPrompts(prompts)) {
      const std::string bytes = EncodePrompts(part);
      const auto count = static_cast<int64_t>(part.size());
      TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_,
                                             "insert into prompt(job, first, count, prompts) "
                                             "select id, prompts, ?, ? from job where id = ?")
                                     .Bind(count)
                                     .BindBlob(bytes)
                                     .Bind(id)
                                     .Run());
      TURBOFLEET_RETURN_IF_ERROR(
          SqliteQuery(*connection_, "update job set prompts = prompts + ? where id = ?").Bind(count).Bind(id).Run());
    }
    return absl::OkStatus();
  });
}

absl::Status SqliteJobStore::PutInput(const std::string& sha256, const std::string& content) {
  return Write([&]() -> absl::Status {
    SqliteQuery user(*connection_, "select 1 from job where init_image = ? and init_image <> ''");
    TURBOFLEET_ASSIGN_OR_RETURN(const bool used, user.Bind(sha256).Step());
    if (!used) return absl::FailedPreconditionError(absl::StrCat("no job uses the start picture ", sha256));
    return SqliteQuery(*connection_, "insert into input(sha256, content) values(?, ?) on conflict(sha256) do nothing")
        .Bind(sha256)
        .BindBlob(content)
        .Run();
  });
}

absl::StatusOr<JobRecord> SqliteJobStore::Submit(const std::string& id, const std::string& fingerprint) {
  return Write([&]() -> absl::StatusOr<JobRecord> {
    TURBOFLEET_RETURN_IF_ERROR(CheckDraft(id));
    std::optional<std::string> earlier;
    bool same = false;
    {
      SqliteQuery query(*connection_,
                        "select job.id, job.fingerprint from job, job draft where draft.id = ? and job.state > 0 and "
                        "job.request_id <> '' and job.tenant = draft.tenant and job.request_id = draft.request_id");
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Step());
      if (found) {
        earlier = query.Text(0);
        same = query.Text(1) == fingerprint;
      }
    }
    if (earlier.has_value()) {
      TURBOFLEET_RETURN_IF_ERROR(DeleteRow(id));
      if (same) return Find(*earlier);
      return absl::AlreadyExistsError(
          absl::StrCat("the request was made before with other contents, as job ", *earlier));
    }
    int64_t images = 0;
    {
      SqliteQuery query(*connection_, "select tenant, prompts from job where id = ?");
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Step());
      if (!found) return NoJob(id);
      const int64_t prompts = query.Number(1);
      TURBOFLEET_ASSIGN_OR_RETURN(const std::shared_ptr<const JobSpec> spec,
                                  ReadSpec(id, query.Text(0), static_cast<int32_t>(prompts)));
      images = prompts * spec->seeds_per_prompt;
    }
    if (images == 0 || images > kJobImagesMax) {
      specs_.Clear();  // It is a draft still.
      return absl::FailedPreconditionError(absl::StrCat("a job cannot have ", images, " images"));
    }
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_, "update job set state = 1, fingerprint = ?, images = ? where id = ?")
            .BindBlob(fingerprint)
            .Bind(images)
            .Bind(id)
            .Run());
    return Find(id);
  });
}

absl::Status SqliteJobStore::DropDraft(const std::string& id) {
  return Write([&]() -> absl::Status {
    const absl::Status draft = CheckDraft(id);
    if (absl::IsNotFound(draft)) return absl::OkStatus();
    TURBOFLEET_RETURN_IF_ERROR(draft);
    return DeleteRow(id);
  });
}

absl::Status SqliteJobStore::DeleteRow(const std::string& id) {
  specs_.Clear();
  std::string input;
  {
    SqliteQuery query(*connection_, "select init_image from job where id = ?");
    TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Step());
    if (found) input = query.Text(0);
  }
  TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_,
                                         "update job set state = -1, garbage = 1, init_image = '', delete_time = null "
                                         "where id = ?")
                                 .Bind(id)
                                 .Run());
  NoteGarbage();
  if (input.empty()) return absl::OkStatus();
  return SqliteQuery(*connection_,
                     "delete from input where sha256 = ? and not exists (select 1 from job where init_image = sha256 "
                     "and init_image <> '')")
      .Bind(input)
      .Run();
}

absl::StatusOr<JobRecord> SqliteJobStore::Find(const std::string& id) {
  return Read([&]() -> absl::StatusOr<JobRecord> {
    SqliteQuery query(*connection_, "select " TURBOFLEET_JOB_COLUMNS " from job where id = ? and state > 0");
    TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Step());
    if (!found) return NoJob(id);
    return RecordOf(query);
  });
}

absl::StatusOr<bool> SqliteJobStore::HasLabels(const std::string& id,
                                               const std::map<std::string, std::string>& labels) {
  for (const auto& [key, value] : labels) {
    SqliteQuery query(*connection_, "select 1 from label where job = ? and key = ? and value = ?");
    TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(id).Bind(key).Bind(value).Step());
    if (!found) return false;
  }
  return true;
}

absl::StatusOr<std::vector<JobRecord>> SqliteJobStore::List(const JobQuery& query, int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<JobRecord>> {
    SqliteQuery rows(
        *connection_,
        query.tenant.has_value()
            ? "select " TURBOFLEET_JOB_COLUMNS
              " from job where state > 0 and tenant = ? and create_time <= ? and (create_time < ? or id > ?) "
              "and (? = 0 or state = ?) order by create_time desc, id"
            : "select " TURBOFLEET_JOB_COLUMNS
              " from job where state > 0 and create_time <= ? and (create_time < ? or id > ?) "
              "and (? = 0 or state = ?) order by create_time desc, id");
    const std::string after_id = query.after.has_value() ? query.after->second : "";
    const int64_t after_time =
        query.after.has_value() ? absl::ToUnixNanos(query.after->first) : std::numeric_limits<int64_t>::max();
    const int64_t state = query.state.has_value() ? StateNumber(*query.state) : 0;
    if (query.tenant.has_value()) rows.Bind(*query.tenant);
    rows.Bind(after_time).Bind(after_time).Bind(after_id).Bind(state).Bind(state);
    std::vector<JobRecord> records;
    while (static_cast<int64_t>(records.size()) < max) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) break;
      TURBOFLEET_ASSIGN_OR_RETURN(const bool fits, HasLabels(rows.Text(0), query.labels));
      if (!fits) continue;
      TURBOFLEET_ASSIGN_OR_RETURN(JobRecord record, RecordOf(rows));
      records.push_back(std::move(record));
    }
    return records;
  });
}

absl::StatusOr<std::vector<JobRecord>> SqliteJobStore::ListRunning(const std::string& after_id, int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<JobRecord>> {
    SqliteQuery rows(*connection_, "select " TURBOFLEET_JOB_COLUMNS " from job where state = 1 and id > ? order by id");
    rows.Bind(after_id);
    std::vector<JobRecord> records;
    while (static_cast<int64_t>(records.size()) < max) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) break;
      TURBOFLEET_ASSIGN_OR_RETURN(JobRecord record, RecordOf(rows));
      records.push_back(std::move(record));
    }
    return records;
  });
}

absl::StatusOr<std::vector<std::string>> SqliteJobStore::ListDue(absl::Time now, int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<std::string>> {
    SqliteQuery rows(*connection_,
                     "select id from job where delete_time is not null and delete_time <= ? order by delete_time, id");
    rows.Bind(absl::ToUnixNanos(now));
    std::vector<std::string> ids;
    while (static_cast<int64_t>(ids.size()) < max) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) break;
      ids.push_back(rows.Text(0));
    }
    return ids;
  });
}

absl::StatusOr<std::map<std::string, TenantUsage>> SqliteJobStore::Usage() {
  return Read([&]() -> absl::StatusOr<std::map<std::string, TenantUsage>> {
    SqliteQuery rows(*connection_,
                     "select tenant, count(*), sum(bytes_retained) from job where state > 0 group by tenant");
    std::map<std::string, TenantUsage> usage;
    while (true) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) return usage;
      usage[rows.Text(0)] = {.jobs = rows.Number(1), .bytes_retained = rows.Number(2)};
    }
  });
}

absl::StatusOr<std::vector<std::string>> SqliteJobStore::ReadPrompts(const std::string& id, int32_t first,
                                                                     int32_t count) {
  return Read([&]() -> absl::StatusOr<std::vector<std::string>> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, Find(id));
    const int64_t end = static_cast<int64_t>(first) + count;
    if (first < 0 || count < 0 || end > record.spec->prompt_count) {
      return absl::OutOfRangeError(absl::StrCat("job ", id, " has ", record.spec->prompt_count, " prompts"));
    }
    SqliteQuery rows(*connection_,
                     "select first, prompts from prompt where job = ? and first > ? and first < ? "
                     "and first + count > ? order by first");
    rows.Bind(id).Bind(int64_t{first} - kPromptsPerRow).Bind(end).Bind(int64_t{first});
    std::vector<std::string> prompts;
    while (true) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) break;
      TURBOFLEET_ASSIGN_OR_RETURN(std::vector<std::string> part, DecodePrompts(rows.Text(1)));
      for (size_t i = 0; i < part.size(); ++i) {
        const int64_t index = rows.Number(0) + static_cast<int64_t>(i);
        if (index >= first && index < end) prompts.push_back(std::move(part[i]));
      }
    }
    if (static_cast<int64_t>(prompts.size()) != count) {
      return absl::DataLossError(absl::StrCat("prompts of job ", id, " are missing"));
    }
    return prompts;
  });
}

absl::StatusOr<std::string> SqliteJobStore::ReadInput(const std::string& sha256) {
  return Read([&]() -> absl::StatusOr<std::string> {
    SqliteQuery query(*connection_, "select content from input where sha256 = ?");
    TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(sha256).Step());
    if (!found) return absl::NotFoundError(absl::StrCat("there is no start picture ", sha256));
    return query.Text(0);
  });
}

absl::StatusOr<std::vector<NumberedResult>> SqliteJobStore::ReadResults(const std::string& id, int64_t after_sequence,
                                                                        int32_t max) {
  return Read([&]() -> absl::StatusOr<std::vector<NumberedResult>> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, Find(id));
    if (after_sequence < record.released_sequence) {
      return absl::OutOfRangeError(
          absl::StrCat("the results up to ", record.released_sequence, " of job ", id, " are released"));
    }
    SqliteQuery rows(*connection_,
                     "select first_sequence, results from result where job = ? and last_sequence > ? "
                     "order by last_sequence");
    rows.Bind(id).Bind(after_sequence);
    std::vector<NumberedResult> results;
    while (static_cast<int64_t>(results.size()) < max) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) break;
      TURBOFLEET_RETURN_IF_ERROR(AppendResults(rows.Text(1), rows.Number(0), after_sequence, results));
    }
    if (static_cast<int64_t>(results.size()) > max) results.resize(static_cast<size_t>(std::max(max, 0)));
    return results;
  });
}

absl::StatusOr<std::vector<NumberedResult>> SqliteJobStore::ReadShardResults(const std::string& id, int32_t shard) {
  return Read([&]() -> absl::StatusOr<std::vector<NumberedResult>> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, Find(id));
    SqliteQuery rows(*connection_, "select first_sequence, results from result where job = ? and shard = ?");
    rows.Bind(id).Bind(int64_t{shard});
    std::vector<NumberedResult> results;
    while (true) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) break;
      TURBOFLEET_RETURN_IF_ERROR(AppendResults(rows.Text(1), rows.Number(0), record.released_sequence, results));
    }
    std::sort(results.begin(), results.end(),
              [](const NumberedResult& a, const NumberedResult& b) { return a.result.index < b.result.index; });
    return results;
  });
}

absl::StatusOr<std::vector<ClaimedShard>> SqliteJobStore::Claim(const std::string& id, int32_t max) {
  return Write([&]() -> absl::StatusOr<std::vector<ClaimedShard>> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, Find(id));
    if (record.state != JobState::kRunning) return NoJob(id);
    std::vector<ClaimedShard> claimed;
    {
      SqliteQuery free(*connection_,
                       "select number, ended from shard where job = ? and state = 0 order by number limit ?");
      free.Bind(id).Bind(int64_t{std::max(max, 0)});
      while (true) {
        TURBOFLEET_ASSIGN_OR_RETURN(const bool found, free.Step());
        if (!found) break;
        TURBOFLEET_ASSIGN_OR_RETURN(const EndedImages ended, DecodeEnded(free.Text(1)));
        claimed.push_back(MakeClaim(*record.spec, static_cast<int32_t>(free.Number(0)), ended));
      }
    }
    int64_t next = 0;
    {
      SqliteQuery query(*connection_, "select next_shard from job where id = ?");
      TURBOFLEET_RETURN_IF_ERROR(query.Bind(id).Step().status());
      next = query.Number(0);
    }
    for (; static_cast<int64_t>(claimed.size()) < max && next < ShardCountOf(*record.spec); ++next) {
      claimed.push_back(MakeClaim(*record.spec, static_cast<int32_t>(next), {}));
    }
    for (const ClaimedShard& shard : claimed) {
      TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_,
                                             "insert into shard(job, number, state, ended) values(?, ?, 1, x'') "
                                             "on conflict(job, number) do update set state = 1")
                                     .Bind(id)
                                     .Bind(int64_t{shard.number})
                                     .Run());
    }
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_, "update job set next_shard = ? where id = ?").Bind(next).Bind(id).Run());
    return claimed;
  });
}

absl::Status SqliteJobStore::Unclaim(const std::string& id, absl::Span<const int32_t> shards) {
  return Write([&]() -> absl::Status {
    for (const int32_t shard : shards) {
      TURBOFLEET_RETURN_IF_ERROR(
          SqliteQuery(*connection_, "update shard set state = 0 where job = ? and number = ? and state = 1")
              .Bind(id)
              .Bind(int64_t{shard})
              .Run());
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> SqliteJobStore::CommitAll(
    absl::Span<const ShardResults> results, absl::Time now) {
  return Write([&]() -> absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> {
    std::map<std::string, JobRecord> jobs;
    std::map<ShardKey, EndedImages> shards;
    for (const ShardResults& one : results) {
      if (jobs.find(one.job) == jobs.end()) {
        absl::StatusOr<JobRecord> record = Find(one.job);
        if (absl::IsNotFound(record.status())) continue;
        TURBOFLEET_RETURN_IF_ERROR(record.status());
        jobs.emplace(one.job, *std::move(record));
      }
      const ShardKey key = {one.job, one.shard};
      if (shards.find(key) != shards.end()) continue;
      SqliteQuery query(*connection_, "select ended from shard where job = ? and number = ? and state <> 0");
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Bind(one.job).Bind(int64_t{one.shard}).Step());
      if (!found) continue;
      TURBOFLEET_ASSIGN_OR_RETURN(shards[key], DecodeEnded(query.Text(0)));
    }
    CommitPlan plan(std::move(jobs), std::move(shards));
    std::vector<absl::StatusOr<CommitReceipt>> receipts = plan.Apply(results, now);
    TURBOFLEET_RETURN_IF_ERROR(WriteCommit(plan));
    return receipts;
  });
}

absl::Status SqliteJobStore::WriteCommit(const CommitPlan& plan) {
  for (const CommitPlan::ResultRow& row : plan.rows()) {
    const std::string bytes = EncodeResults(row.results);
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_,
                    "insert into result(job, shard, first_sequence, last_sequence, index_max, results) "
                    "values(?, ?, ?, ?, ?, ?)")
            .Bind(row.shard.first)
            .Bind(int64_t{row.shard.second})
            .Bind(row.first_sequence)
            .Bind(row.last_sequence)
            .Bind(int64_t{row.index_max})
            .BindBlob(bytes)
            .Run());
  }
  for (const auto& [key, use] : plan.packs()) {
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_,
                    "insert into pack(job, name, bytes, last_sequence) values(?, ?, ?, ?) on conflict(job, name) "
                    "do update set bytes = bytes + excluded.bytes, last_sequence = excluded.last_sequence")
            .Bind(key.first)
            .Bind(key.second)
            .Bind(use.bytes)
            .Bind(use.last_sequence)
            .Run());
  }
  for (const ShardKey& key : plan.changed_shards()) {
    const std::string ended = EncodeEnded(plan.ended(key));
    TURBOFLEET_RETURN_IF_ERROR(
        SqliteQuery(*connection_, "update shard set ended = ?, state = ? where job = ? and number = ?")
            .BindBlob(ended)
            .Bind(int64_t{plan.IsDone(key) ? 2 : 1})
            .Bind(key.first)
            .Bind(int64_t{key.second})
            .Run());
  }
  for (const std::string& id : plan.changed_jobs()) TURBOFLEET_RETURN_IF_ERROR(WriteProgress(plan.job(id)));
  return absl::OkStatus();
}

absl::Status SqliteJobStore::WriteProgress(const JobRecord& record) {
  SqliteQuery query(*connection_,
                    "update job set state = ?, end_time = ?, delete_time = ?, completed = ?, failed = ?, "
                    "bytes_retained = ?, released = ? where id = ?");
  query.Bind(StateNumber(record.state));
  BindTime(query, record.end_time);
  BindTime(query, record.delete_time);
  query.Bind(record.images_completed).Bind(record.images_failed).Bind(record.bytes_retained);
  TURBOFLEET_RETURN_IF_ERROR(query.Bind(record.released_sequence).Bind(record.id).Run());
  if (record.state == JobState::kRunning) return absl::OkStatus();
  return SqliteQuery(*connection_, "delete from shard where job = ?").Bind(record.id).Run();
}

absl::StatusOr<JobRecord> SqliteJobStore::End(const std::string& id, JobState state, absl::Time now) {
  return Write([&]() -> absl::StatusOr<JobRecord> {
    TURBOFLEET_ASSIGN_OR_RETURN(JobRecord record, Find(id));
    if (record.state != JobState::kRunning) return record;
    EndJob(record, state, now);
    TURBOFLEET_RETURN_IF_ERROR(WriteProgress(record));
    return record;
  });
}

absl::StatusOr<std::vector<std::string>> SqliteJobStore::ReadPackNames(const std::string& id, int64_t up_to_sequence) {
  SqliteQuery rows(*connection_, "select name from pack where job = ? and last_sequence <= ? order by name");
  rows.Bind(id).Bind(up_to_sequence);
  std::vector<std::string> names;
  while (true) {
    TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
    if (!found) return names;
    names.push_back(rows.Text(0));
  }
}

absl::StatusOr<std::vector<std::string>> SqliteJobStore::ReleaseResults(const std::string& id, int64_t sequence) {
  return Write([&]() -> absl::StatusOr<std::vector<std::string>> {
    TURBOFLEET_ASSIGN_OR_RETURN(JobRecord record, Find(id));
    if (sequence > record.LastSequence()) {
      return absl::OutOfRangeError(absl::StrCat("job ", id, " has ", record.LastSequence(), " results"));
    }
    if (sequence <= record.released_sequence) return std::vector<std::string>();
    TURBOFLEET_ASSIGN_OR_RETURN(std::vector<std::string> names, ReadPackNames(id, sequence));
    {
      SqliteQuery query(*connection_, "select coalesce(sum(bytes), 0) from pack where job = ? and last_sequence <= ?");
      TURBOFLEET_RETURN_IF_ERROR(query.Bind(id).Bind(sequence).Step().status());
      record.bytes_retained -= query.Number(0);
    }
    record.released_sequence = sequence;
    TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_, "delete from pack where job = ? and last_sequence <= ?")
                                   .Bind(id)
                                   .Bind(sequence)
                                   .Run());
    TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_, "update job set garbage = 1 where id = ?").Bind(id).Run());
    NoteGarbage();
    TURBOFLEET_RETURN_IF_ERROR(WriteProgress(record));
    return names;
  });
}

absl::StatusOr<bool> SqliteJobStore::PurgeSome() {
  std::string id;
  bool deleted = false;
  int64_t up_to = std::numeric_limits<int64_t>::max();
  {
    SqliteQuery query(*connection_, "select id, state, released from job where garbage = 1 limit 1");
    TURBOFLEET_ASSIGN_OR_RETURN(const bool found, query.Step());
    if (!found) return false;
    id = query.Text(0);
    deleted = query.Number(1) < 0;
    if (!deleted) up_to = query.Number(2);
  }
  TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_,
                                         "delete from result where rowid in (select rowid from result where job = ? "
                                         "and last_sequence <= ? order by last_sequence limit ?)")
                                 .Bind(id)
                                 .Bind(up_to)
                                 .Bind(kPurgedRows)
                                 .Run());
  if (connection_->changes() == kPurgedRows) return true;
  if (!deleted) {
    TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_, "update job set garbage = 0 where id = ?").Bind(id).Run());
    return true;
  }
  TURBOFLEET_RETURN_IF_ERROR(
      SqliteQuery(*connection_, "delete from prompt where rowid in (select rowid from prompt where job = ? limit ?)")
          .Bind(id)
          .Bind(kPurgedPromptRows)
          .Run());
  if (connection_->changes() == kPurgedPromptRows) return true;
  TURBOFLEET_RETURN_IF_ERROR(SqliteQuery(*connection_, "delete from job where id = ?").Bind(id).Run());
  return true;
}

bool SqliteJobStore::Idle() {
  if (has_garbage() && Write([] { return absl::OkStatus(); }).ok() && has_garbage()) return true;
  connection_->Checkpoint(/*all=*/true);
  return false;
}

absl::StatusOr<int64_t> SqliteJobStore::SequenceBeforeIndex(const std::string& id, int32_t index) {
  return Read([&]() -> absl::StatusOr<int64_t> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, Find(id));
    SqliteQuery rows(*connection_,
                     "select first_sequence, results from result where job = ? and last_sequence > ? "
                     "and index_max >= ? order by last_sequence");
    rows.Bind(id).Bind(record.released_sequence).Bind(int64_t{index});
    while (true) {
      TURBOFLEET_ASSIGN_OR_RETURN(const bool found, rows.Step());
      if (!found) return record.LastSequence();
      TURBOFLEET_ASSIGN_OR_RETURN(const std::optional<int64_t> sequence,
                                  SequenceBefore(rows.Text(1), rows.Number(0), record.released_sequence, index));
      if (sequence.has_value()) return *sequence;
    }
  });
}

absl::StatusOr<std::vector<std::string>> SqliteJobStore::Delete(const std::string& id) {
  return Write([&]() -> absl::StatusOr<std::vector<std::string>> {
    TURBOFLEET_ASSIGN_OR_RETURN(const JobRecord record, Find(id));
    if (record.state == JobState::kRunning) {
      return absl::FailedPreconditionError(absl::StrCat("job ", id, " is running"));
    }
    TURBOFLEET_ASSIGN_OR_RETURN(std::vector<std::string> names, ReadPackNames(id, std::numeric_limits<int64_t>::max()));
    TURBOFLEET_RETURN_IF_ERROR(DeleteRow(id));
    return names;
  });
}

}  // namespace turbofleet
