// The command line of turbofleet-coordinator.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/credentials.h"
#include "common/standard_flags.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/spool/file_spool.h"

namespace turbofleet {

struct CoordinatorOptions {
  std::string listen = "127.0.0.1:50051";
  std::string http_listen = "127.0.0.1:8080";
  std::string data_dir;  // Empty: none, and no durable jobs.
  std::string tenant_metadata;
  std::string database;  // Empty: SQLite in the data folder.
  std::string database_schema = "turbofleet";
  std::string name;          // Of this coordinator among those that share the database.
  std::string address_file;  // Empty: none.
  absl::Duration drain_timeout = absl::Seconds(30);
  TlsOptions tls;
  LogOptions log;
  Dispatcher::Options dispatcher;
  JobDesk::Options desk;
  FileSpool::Options spool;  // But its `life`. An empty folder: below data_dir.
};

// Fills `options`. A value is an exit code to leave with.
std::optional<int> ParseOptions(int argc, const char* const* argv, CoordinatorOptions* options);

}  // namespace turbofleet
