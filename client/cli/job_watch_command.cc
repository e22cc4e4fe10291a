#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/job_text.h"
#include "client/cli/job_watch_flags.h"
#include "client/cli/job_watcher.h"
#include "client/cli/progress.h"
#include "common/clock.h"
#include "common/flags.h"

namespace turbofleet::cli {
namespace {

constexpr char kFolderOfJob[] = "out/JOB";

constexpr char kExamples[] = R"(
Examples:
  turbofleet job watch 1a2b --out pictures
  turbofleet job watch 1a2b --out pictures --release    # a job that is larger than the coordinator's room
  turbofleet job watch 1a2b --ordered --json | jq -r .path

The folder remembers where it stands: after a kill, a broken network or Ctrl-C, the same command goes on there, and each
picture is in the folder once. The job itself never waits for a watcher, until its pictures fill the room that it has on
the coordinator. manifest.jsonl has the prompts in the folder that the job was created with; elsewhere, their numbers.

Exit codes: 0 done, 1 failed or cancelled, 2 wrong usage, 3 some pictures failed, 4 no connection, 5 deadline or job
expired, 130 interrupted.)";

// What the job itself ended like, when all of the watch was well.
int ExitCodeOf(const client::Job& job, Progress* progress) {
  if (job.state == client::JobState::kCancelled || job.state == client::JobState::kExpired) {
    progress->Note(absl::StrCat("The job was ",
                                job.state == client::JobState::kCancelled ? "cancelled" : "not finished in time", ": ",
                                job.images_completed, " of ", job.image_count, " pictures were made"));
    return job.state == client::JobState::kCancelled ? kExitFailed : kExitDeadline;
  }
  if (job.images_failed == 0) return kExitOk;
  return job.images_completed > 0 ? kExitSomeFailed : kExitFailed;
}

struct WatchCommandFlags {
  std::string name;
  JobWatchFlags watch;
};

int WatchJob(const Globals& globals, const WatchCommandFlags& flags, std::stop_token stop) {
  const absl::StatusOr<std::string> name = JobNameOf(flags.name);
  if (!name.ok()) return FailUsage("job watch", name.status());
  const absl::StatusOr<CheckedOutput> output = CheckOutputFlags(flags.watch.output);
  if (!output.ok()) return FailUsage("job watch", output.status());
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("job watch", client.status());
  // A folder for a job that is not there would only be litter.
  const absl::StatusOr<client::Job> job =
      client->GetJob(*name, {.timeout = output->timeout, .stop = stop, .on_retry = {}});
  if (!job.ok()) return Fail(globals, job.status());
  const absl::StatusOr<std::unique_ptr<JobFolder>> folder = OpenJobFolder(flags.watch, output->names, *name);
  if (!folder.ok()) return Fail(globals, folder.status());
  JobRecord record;
  record.job = *name;
  if (const absl::Status status = (*folder)->SetRecord(std::move(record)); !status.ok()) return Fail(globals, status);
  return WatchIntoFolder(globals, flags.watch, *output, &*client, folder->get(), stop);
}

}  // namespace

JobWatchFlags::JobWatchFlags() { output.folder = kFolderOfJob; }

void AddJobWatchFlags(CLI::App* command, JobWatchFlags* flags) {
  command->add_flag("--ordered", flags->ordered, "Take pictures by index instead of as they are finished")
      ->group("Watch");
  command
      ->add_flag("--release", flags->release,
                 "Give up on the coordinator what is safely in the folder; it cannot be watched again")
      ->group("Watch");
  AddOutputFlags(command, &flags->output);
}

bool IsFolderNamed(const JobWatchFlags& flags) { return flags.output.folder != kFolderOfJob; }

absl::StatusOr<std::unique_ptr<JobFolder>> OpenJobFolder(const JobWatchFlags& flags, const NameTemplate& names,
                                                         const std::string& job) {
  return JobFolder::Open(IsFolderNamed(flags) ? flags.output.folder : absl::StrCat("out/", JobIdOf(job)), names);
}

int WatchIntoFolder(const Globals& globals, const JobWatchFlags& flags, const CheckedOutput& output, Client* client,
                    JobFolder* folder, std::stop_token stop) {
  const SteadyClock clock;
  Progress progress(ChooseProgressStyle(globals.quiet), &clock);
  JobWatcher watcher(
      client, folder, &progress,
      {.json = flags.output.json, .ordered = flags.ordered, .release = flags.release, .timeout = output.timeout});
  const absl::Status status = watcher.Run(stop);
  const int code =
      FinishRun(globals, flags.output, watcher.writer(), status, watcher.earlier(), folder->output(), &progress);
  if (!status.ok() || (code != kExitOk && code != kExitSomeFailed)) return code;
  return ExitCodeOf(*watcher.job(), &progress);
}

void AddJobWatchCommand(CLI::App* parent, const Globals* globals, Commands* commands) {
  CLI::App* command = parent->add_subcommand("watch", "Take a job's pictures into a folder; again to go on");
  command->footer(kExamples);
  const auto flags = std::make_shared<WatchCommandFlags>();
  command->add_option("JOB", flags->name, "The job, as `job create` and `job list` name it")->required();
  AddJobWatchFlags(command, &flags->watch);
  (*commands)[command] = [globals, flags](std::stop_token stop) { return WatchJob(*globals, *flags, stop); };
}

}  // namespace turbofleet::cli
