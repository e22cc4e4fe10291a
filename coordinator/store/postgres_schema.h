// The tables of a PostgresJobStore, by version.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "coordinator/store/postgres_connection.h"

namespace turbofleet {

// Makes the schema and its tables, or those of an older release into ours. Atomic, and one coordinator at a time.
// REQUIRES: `schema` is an identifier of lower-case letters, digits and "_", and the connection's search path.
// FAILED_PRECONDITION: the tables are of a newer release.
absl::Status MigratePostgres(PostgresConnection& connection, const std::string& schema);

}  // namespace turbofleet
