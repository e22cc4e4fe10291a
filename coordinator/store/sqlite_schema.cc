#include "coordinator/store/sqlite_schema.h"

#include <cstdint>
#include <iterator>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

// In the file's header, so that other programs can tell: "TFLT".
constexpr int64_t kApplicationId = 0x54464c54;

// What makes version N + 1 of version N, from 0, which is empty. Only ever added to.
//
// Times are nanoseconds since 1970. A job's state is 0 for a draft, -1 once it is deleted, else 1 + JobState; it has
// garbage while rows of it are left that nobody needs. A shard's state is 0 free, 1 claimed, 2 done. Large values come
// last in their rows, where reading the others does not touch them.
constexpr const char* kMigrations[] = {
    R"(
create table job(
  id text primary key,
  tenant text not null,
  request_id text not null,
  state integer not null,
  garbage integer not null default 0,
  create_time integer not null,
  deadline integer,
  end_time integer,
  delete_time integer,
  prompts integer not null,
  images integer not null,
  next_shard integer not null,
  completed integer not null,
  failed integer not null,
  bytes_retained integer not null,
  released integer not null,
  init_image text not null,
  fingerprint blob not null,
  spec blob not null
) strict;
create unique index job_by_request on job(tenant, request_id) where state > 0 and request_id <> '';
create index job_by_tenant on job(tenant, create_time desc, id) where state > 0;
create index job_by_time on job(create_time desc, id) where state > 0;
create index job_running on job(id) where state = 1;
create index job_due on job(delete_time, id) where delete_time is not null;
create index job_garbage on job(id) where garbage = 1;
create index job_draft on job(id) where state = 0;
create index job_by_input on job(init_image) where init_image <> '';

create table label(
  job text not null references job on delete cascade,
  key text not null,
  value text not null,
  primary key (job, key)
) strict, without rowid;

create table prompt(
  job text not null references job on delete cascade,
  first integer not null,
  count integer not null,
  prompts blob not null,
  unique (job, first)
) strict;

create table input(sha256 text primary key, content blob not null) strict;

create table shard(
  job text not null references job on delete cascade,
  number integer not null,
  state integer not null,
  ended blob not null,
  primary key (job, number)
) strict, without rowid;
create index shard_free on shard(job, number) where state = 0;
create index shard_claimed on shard(job, number) where state = 1;

create table result(
  job text not null references job on delete cascade,
  shard integer not null,
  first_sequence integer not null,
  last_sequence integer not null,
  index_max integer not null,
  results blob not null,
  unique (job, last_sequence)
) strict;
create index result_by_shard on result(job, shard);

create table pack(
  job text not null references job on delete cascade,
  name text not null,
  bytes integer not null,
  last_sequence integer not null,
  primary key (job, name)
) strict, without rowid;
create index pack_by_sequence on pack(job, last_sequence);
)",
};

absl::Status Migrate(SqliteConnection& connection) {
  TURBOFLEET_ASSIGN_OR_RETURN(const int64_t application, connection.ReadNumber("pragma application_id"));
  TURBOFLEET_ASSIGN_OR_RETURN(const int64_t version, connection.ReadNumber("pragma user_version"));
  TURBOFLEET_ASSIGN_OR_RETURN(const int64_t tables, connection.ReadNumber("select count(*) from sqlite_schema"));
  constexpr auto kNewest = static_cast<int64_t>(std::size(kMigrations));
  if (application != kApplicationId && (application != 0 || version != 0 || tables != 0)) {
    return absl::FailedPreconditionError("it is another program's database");
  }
  if (version > kNewest) {
    return absl::FailedPreconditionError(absl::StrCat("it has version ", version,
                                                      " of the tables and this release knows those up to ", kNewest,
                                                      ": a newer release has written it"));
  }
  if (version == kNewest) return absl::OkStatus();
  for (int64_t next = version; next < kNewest; ++next) {
    TURBOFLEET_RETURN_IF_ERROR(connection.Execute(kMigrations[next]));
  }
  return connection.Execute(
      absl::StrCat("pragma application_id = ", kApplicationId, "; pragma user_version = ", kNewest));
}

}  // namespace

absl::Status MigrateSqlite(SqliteConnection& connection) {
  TURBOFLEET_RETURN_IF_ERROR(connection.Execute("begin immediate"));
  absl::Status status = Migrate(connection);
  if (status.ok()) status = connection.Execute("commit");
  if (connection.in_transaction()) (void)connection.Execute("rollback");
  return status;
}

}  // namespace turbofleet
