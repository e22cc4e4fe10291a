// The tables of a SqliteJobStore, by version.
#pragma once

#include "absl/status/status.h"
#include "coordinator/store/sqlite_connection.h"

namespace turbofleet {

// Makes the tables in an empty database, or those of an older release into ours. Atomic.
// FAILED_PRECONDITION: the database is of a newer release, or no database of ours.
absl::Status MigrateSqlite(SqliteConnection& connection);

}  // namespace turbofleet
