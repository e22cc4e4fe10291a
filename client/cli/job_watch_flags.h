// What `job watch` and `job create --watch` share.
#pragma once

#include <memory>
#include <stop_token>
#include <string>

#include "CLI/CLI.hpp"
#include "client/cli/command.h"
#include "client/cli/job_folder.h"
#include "client/cli/output_flags.h"

namespace turbofleet::cli {

struct JobWatchFlags {
  JobWatchFlags();

  bool ordered = false;
  bool release = false;
  OutputFlags output;  // Its folder is, if not named, one for each job.
};

void AddJobWatchFlags(CLI::App* command, JobWatchFlags* flags);

// The folder of --out for the job, opened. As JobFolder::Open().
absl::StatusOr<std::unique_ptr<JobFolder>> OpenJobFolder(const JobWatchFlags& flags, const NameTemplate& names,
                                                         const std::string& job);
// Whether --out names a folder before the job has a name.
bool IsFolderNamed(const JobWatchFlags& flags);

// Watches the folder's job to its end, and returns the exit code.
int WatchIntoFolder(const Globals& globals, const JobWatchFlags& flags, const CheckedOutput& output, Client* client,
                    JobFolder* folder, std::stop_token stop);

}  // namespace turbofleet::cli
