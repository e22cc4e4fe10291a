#include "coordinator/store/postgres_schema.h"

#include <cstdint>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

// What makes version N + 1 of version N, from 0, which is empty. Only ever added to.
//
// Times are nanoseconds since 1970. A job's state is 0 for a draft, -1 once it is deleted, else 1 + JobState; it has
// garbage while rows of it are left that nobody needs. An owner is an incarnation. What
// clients name freely is bytea, which takes every text. No index is on what a commit changes in a job or shard, so that
// it changes nothing but the row.
constexpr const char* kMigrations[] = {
    R"(
create table coordinator(
  id text collate "C" primary key,
  incarnation text collate "C" not null,
  lease_end timestamptz not null
);

create function fence(self text, life text) returns void language plpgsql as $$
begin
  perform 1 from coordinator where id = self and incarnation = life for share;
  if not found then
    raise exception 'another life has taken over from coordinator %', self using errcode = 'TF001';
  end if;
end $$;

create table job(
  id text collate "C" primary key,
  tenant text collate "C" not null,
  request_id bytea not null,
  state int8 not null,
  garbage boolean not null default false,
  draft_of text collate "C" not null,
  create_time int8 not null,
  deadline int8,
  end_time int8,
  delete_time int8,
  prompts int8 not null,
  images int8 not null,
  next_shard int8 not null,
  completed int8 not null,
  failed int8 not null,
  bytes_retained int8 not null,
  released int8 not null,
  init_image text collate "C" not null,
  fingerprint bytea not null,
  spec bytea not null
) with (fillfactor = 50);
create unique index job_by_request on job(tenant, request_id) where state > 0 and request_id <> '';
create index job_by_tenant on job(tenant, create_time desc, id) where state > 0;
create index job_by_time on job(create_time desc, id) where state > 0;
create index job_running on job(id) where state = 1;
create index job_due on job(delete_time, id) where delete_time is not null;
create index job_garbage on job(id) where garbage;
create index job_draft on job(draft_of) where state = 0;
create index job_by_input on job(init_image) where init_image <> '';

create table label(
  job text collate "C" not null references job on delete cascade,
  key bytea not null,
  value bytea not null,
  primary key (job, key)
);

create table prompt(
  job text collate "C" not null references job on delete cascade,
  first int8 not null,
  count int8 not null,
  prompts bytea not null,
  primary key (job, first)
);

create table input(sha256 text collate "C" primary key, content bytea not null);

create table shard(
  job text collate "C" not null references job on delete cascade,
  number int8 not null,
  owner text collate "C",
  done boolean not null,
  ended bytea not null,
  primary key (job, number)
) with (fillfactor = 50);
create index shard_free on shard(job, number) where owner is null;
create index shard_owned on shard(owner) where not done;

create table result(
  job text collate "C" not null references job on delete cascade,
  shard int8 not null,
  first_sequence int8 not null,
  last_sequence int8 not null,
  index_max int8 not null,
  results bytea not null,
  primary key (job, last_sequence)
);
create index result_by_shard on result(job, shard);

create table pack(
  job text collate "C" not null references job on delete cascade,
  name text collate "C" not null,
  bytes int8 not null,
  last_sequence int8 not null,
  primary key (job, name)
) with (fillfactor = 50);
)",
};

absl::Status Migrate(PostgresConnection& connection, const std::string& schema) {
  // Any number will do, so long as it stays. It is let go with the transaction.
  TURBOFLEET_RETURN_IF_ERROR(
      connection.Run("select pg_advisory_xact_lock(hashtextextended('turbofleet migration', 0))").status());
  TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows there, connection.Run("select 1 from pg_namespace where nspname = $1",
                                                                       PostgresValues().Text(schema)));
  // Who may not create schemas can still use one that is there.
  if (there.count() == 0) TURBOFLEET_RETURN_IF_ERROR(connection.Execute(absl::StrCat("create schema ", schema)));
  TURBOFLEET_RETURN_IF_ERROR(connection.Execute("create table if not exists migration(version int8 primary key)"));
  TURBOFLEET_ASSIGN_OR_RETURN(const PostgresRows rows,
                              connection.Run("select coalesce(max(version), 0)::int8 from migration"));
  const int64_t version = rows.Number(0, 0);
  constexpr auto kNewest = static_cast<int64_t>(std::size(kMigrations));
  if (version > kNewest) {
    return absl::FailedPreconditionError(absl::StrCat("schema ", schema, " has version ", version,
                                                      " of the tables and this release knows those up to ", kNewest,
                                                      ": a newer release has written it"));
  }
  for (int64_t next = version; next < kNewest; ++next) {
    TURBOFLEET_RETURN_IF_ERROR(connection.Execute(kMigrations[next]));
    TURBOFLEET_RETURN_IF_ERROR(
        connection.Run("insert into migration(version) values($1)", PostgresValues().Number(next + 1)).status());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MigratePostgres(PostgresConnection& connection, const std::string& schema) {
  TURBOFLEET_RETURN_IF_ERROR(connection.Execute("begin"));
  absl::Status status = Migrate(connection, schema);
  if (status.ok()) return connection.Execute("commit");
  (void)connection.Execute("rollback");
  return status;
}

}  // namespace turbofleet
