#include "coordinator/options.h"

#include <cstdint>
#include <iostream>

#include "CLI/CLI.hpp"
#include "common/address.h"
#include "common/flags.h"

namespace turbofleet {
namespace {

constexpr char kLimits[] = "Limits";
constexpr int64_t kBytesMax = int64_t{1} << 40;

void AddDuration(CLI::App& app, const char* name, absl::Duration* duration, absl::Duration min, const char* help,
                 const char* group) {
  const auto check = [min](std::string& text) -> std::string {
    absl::Duration value;
    if (!absl::ParseDuration(text, &value)) return "'" + text + "' is no duration such as 500ms, 30s or 5m";
    if (value < min || value > absl::Hours(24 * 30)) return "must be at least " + absl::FormatDuration(min);
    return "";
  };
  app.add_option_function<std::string>(
         name, [duration](const std::string& text) { absl::ParseDuration(text, duration); }, help)
      ->check(CLI::Validator(check, "", ""))
      ->type_name("DURATION")
      ->default_str(absl::FormatDuration(*duration))
      ->group(group);
}

template <typename Number>
void AddLimit(CLI::App& app, const char* name, Number* limit, Number max, const char* help) {
  app.add_option(name, *limit, help)
      ->check(CLI::Range(Number{1}, max))
      ->type_name("N")
      ->capture_default_str()
      ->group(kLimits);
}

void AddListeners(CLI::App& app, CoordinatorOptions* options) {
  const auto address = [](std::string& text) -> std::string {
    return std::string(ParseHostPort("the address", text).status().message());
  };
  app.add_option("--listen", options->listen, "Where clients and workers connect; port 0 takes a free one")
      ->check(CLI::Validator(address, "", ""))
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--http-listen", options->http_listen, "Where /metrics, /healthz, /readyz and /version are served")
      ->check(CLI::Validator(address, "", ""))
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option(
         "--data-dir", options->data_dir,
         "Folder where durable jobs and their pictures are kept, created if it is not there, and locked so that "
         "no other coordinator uses it. Without it there are no durable jobs")
      ->type_name("DIR");
  app.add_option("--spool-dir", options->spool.folder,
                 "Folder where the pictures of durable jobs are kept instead, such as a larger disk")
      ->type_name("DIR");
  app.add_option("--database", options->database,
                 "PostgreSQL where durable jobs are kept instead, so that several coordinators work on them")
      ->type_name("CONNINFO");
  app.add_option("--database-schema", options->database_schema, "Schema of the tables, created if it is not there")
      ->type_name("NAME")
      ->capture_default_str();
  app.add_option("--name", options->name,
                 "This coordinator's name among those that share the database; a name that stays over restarts lets "
                 "the new process take over at once")
      ->type_name("NAME");
  app.add_option(
         "--tenant-metadata", options->tenant_metadata,
         "Metadata of calls that names their tenant, in lower case. It is believed: only for a coordinator behind "
         "something that sets it. Without it all calls are of one tenant")
      ->type_name("KEY");
  app.add_option("--address-file", options->address_file,
                 "Write the addresses that are bound to this file, as grpc=HOST:PORT and http=HOST:PORT, once serving")
      ->type_name("FILE");
  AddDuration(app, "--drain-timeout", &options->drain_timeout, absl::ZeroDuration(),
              "How long SIGTERM lets running jobs finish", "Options");
}

void AddLimits(CLI::App& app, Dispatcher::Options* options) {
  Scheduler::Options& scheduler = options->scheduler;
  AddLimit(app, "--images-queued-max", &scheduler.images_queued_max, int64_t{100'000'000},
           "Images that may wait; requests beyond it are refused");
  AddLimit(app, "--images-per-job-max", &options->images_per_job_max, 1'000'000, "Images of one request");
  AddLimit(app, "--jobs-max", &scheduler.jobs_max, int64_t{1'000'000}, "Calls at a time");
  AddLimit(app, "--attempts-max", &scheduler.attempts_max, 255, "Tries per image before it fails");
  AddLimit(app, "--batches-held-max", &scheduler.batches_held_max, int64_t{1'000}, "Batches that one worker may have");
  AddLimit(app, "--prompt-bytes-max", &scheduler.prompt_bytes_max, kBytesMax, "Bytes of prompts that are kept");
  AddLimit(app, "--input-bytes-max", &options->input_bytes_max, kBytesMax, "Bytes of start pictures that are kept");
  AddLimit(app, "--images-unsent-max", &options->images_unsent_max, int64_t{1'000'000},
           "Finished images that a client may be behind before its job waits");
  AddLimit(app, "--bytes-unsent-max", &options->bytes_unsent_max, kBytesMax, "The same, in bytes");
  AddLimit(app, "--bytes-unsent-total-max", &options->bytes_unsent_total_max, kBytesMax,
           "The same, for all clients together");
  AddDuration(app, "--client-stall-timeout", &options->client_stall_timeout, absl::Seconds(1),
              "How long a client may read nothing before its call is cancelled", kLimits);
  AddDuration(app, "--session-timeout", &scheduler.session_timeout, absl::Seconds(1),
              "How long a worker may be silent before its images go to others", kLimits);
  AddDuration(app, "--stuck-timeout", &scheduler.stuck_timeout, absl::Seconds(1),
              "How long a worker's device may stand still at least before its images go to others", kLimits);
  AddDuration(app, "--report-interval", &options->report_interval, absl::Milliseconds(10),
              "How often workers report at least", kLimits);
}

void AddJobLimits(CLI::App& app, CoordinatorOptions* options) {
  DurableJobs::Options& jobs = options->dispatcher.durable;
  AddLimit(app, "--images-per-durable-job-max", &options->desk.images_per_job_max, 100'000'000,
           "Images of one durable job");
  AddLimit(app, "--jobs-running-max", &jobs.jobs_running_max, int64_t{10'000'000}, "Durable jobs that run at a time");
  AddLimit(app, "--jobs-running-per-tenant-max", &jobs.jobs_running_per_tenant_max, int64_t{10'000'000},
           "The same, of one tenant");
  AddLimit(app, "--images-waiting-per-tenant-max", &jobs.images_waiting_per_tenant_max, int64_t{1} << 50,
           "Images of one tenant's durable jobs that wait");
  AddLimit(app, "--jobs-open-per-tenant-max", &jobs.jobs_open_per_tenant_max, 100'000,
           "Durable jobs of one tenant, class and model that are worked on side by side");
  AddLimit(app, "--bytes-retained-max", &jobs.bytes_retained_max, int64_t{1} << 60,
           "Bytes of pictures that are kept; jobs beyond it wait until some are released or deleted");
  AddLimit(app, "--bytes-retained-per-tenant-max", &jobs.bytes_retained_per_tenant_max, int64_t{1} << 60,
           "The same, of one tenant");
  AddLimit(app, "--bytes-retained-per-job-max", &jobs.bytes_retained_per_job_max, int64_t{1} << 60,
           "The same, of one job");
  AddLimit(app, "--bytes-uncommitted-max", &jobs.bytes_uncommitted_max, kBytesMax,
           "Bytes of pictures that may wait for the disk before workers wait");
  AddLimit(app, "--disk-free-min", &options->spool.disk_free_min, kBytesMax,
           "Bytes of the disk that pictures leave free");
  AddDuration(app, "--retention", &options->desk.retention, absl::ZeroDuration(),
              "How long a durable job is kept after its end if it does not say", kLimits);
}

// What no single option can be blamed for.
std::string Contradiction(const CoordinatorOptions& options) {
  const Dispatcher::Options& dispatcher = options.dispatcher;
  if (dispatcher.images_per_job_max > dispatcher.scheduler.images_queued_max) {
    return "--images-per-job-max is above --images-queued-max, so that the largest jobs could never start";
  }
  if (!options.database.empty() && (options.name.empty() || options.spool.folder.empty() || options.data_dir.empty())) {
    return "--database needs --data-dir, --name, and a --spool-dir that all coordinators reach";
  }
  if (options.database.empty() && !options.name.empty()) return "--name has no effect without --database";
  if (options.data_dir.empty() && !options.spool.folder.empty()) return "--spool-dir has no effect without --data-dir";
  if (dispatcher.report_interval * 2 > dispatcher.scheduler.session_timeout) {
    return "--report-interval is more than half of --session-timeout, so that one late report would cost the session";
  }
  return "";
}

}  // namespace

std::optional<int> ParseOptions(int argc, const char* const* argv, CoordinatorOptions* options) {
  Flags flags("turbofleet-coordinator",
              "Splits requests for images over the workers that connect to it, and streams the images back.");
  AddListeners(flags.app(), options);
  AddTlsFlags(flags.app(), TlsRole::kListener, &options->tls);
  AddLogFlags(flags.app(), &options->log);
  AddLimits(flags.app(), &options->dispatcher);
  AddJobLimits(flags.app(), options);
  if (const std::optional<int> code = flags.Parse(argc, argv); code.has_value()) return code;
  if (const std::string contradiction = Contradiction(*options); !contradiction.empty()) {
    std::cerr << "turbofleet-coordinator: " << contradiction << "\n";
    return kExitUsage;
  }
  return std::nullopt;
}

}  // namespace turbofleet
