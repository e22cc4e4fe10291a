// `job` with what looks at jobs and ends them: list, show, cancel, delete.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "client/cli/job_text.h"
#include "client/cli/recipe.h"
#include "client/cli/table.h"
#include "common/errors.h"
#include "common/flags.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);

std::string LabelsText(const client::Job& job) { return absl::StrJoin(job.labels, ",", absl::PairFormatter("=")); }

std::string BytesText(int64_t bytes) {
  if (bytes < 1 << 20) return absl::StrFormat("%.0f KiB", static_cast<double>(bytes) / (1 << 10));
  if (bytes < 1 << 30) return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (1 << 30));
}

struct ListFlags {
  std::string state;
  std::vector<std::string> labels;
  int64_t limit = 100;
  bool json = false;
};

std::vector<std::string> RowOf(const client::Job& job) {
  return {JobIdOf(job.name),
          StateName(job.state),
          absl::StrCat(job.images_completed),
          absl::StrCat(job.images_failed),
          absl::StrCat(job.image_count),
          job.priority.has_value() ? PriorityName(*job.priority) : "",
          TimeText(job.create_time),
          LabelsText(job)};
}

int ListJobs(const Globals& globals, const ListFlags& flags, std::stop_token stop) {
  client::JobFilter filter;
  if (!flags.state.empty()) {
    const absl::StatusOr<client::JobState> state = ParseState(flags.state);
    if (!state.ok()) return FailUsage("job list", state.status());
    filter.state = *state;
  }
  const auto labels = ParseLabels(flags.labels);
  if (!labels.ok()) return FailUsage("job list", labels.status());
  filter.labels = *labels;
  if (flags.limit < 1) return FailUsage("job list", InvalidField("--limit", "must be 1 or more"));
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("job list", client.status());
  std::vector<std::vector<std::string>> rows = {
      {"JOB", "STATE", "DONE", "FAILED", "OF", "PRIORITY", "CREATED", "LABELS"}};
  std::string token;
  int64_t left = flags.limit;
  do {
    const absl::StatusOr<client::JobPage> page =
        client->ListJobsPage(filter, static_cast<int32_t>(std::min<int64_t>(left, 1000)), token,
                             {.timeout = kTimeout, .stop = stop, .on_retry = {}});
    if (!page.ok()) return Fail(globals, page.status());
    for (const client::Job& job : page->jobs) {
      if (left-- <= 0) break;
      if (flags.json) std::printf("%s\n", Dump(JobJson(job)).c_str());
      if (!flags.json) rows.push_back(RowOf(job));
    }
    token = page->next_page_token;
  } while (left > 0 && !token.empty());
  if (flags.json) return kExitOk;
  if (rows.size() == 1) {
    std::fprintf(stderr, "There is no such job. Create one: turbofleet job create \"a red circle\" --count 1000\n");
    return kExitOk;
  }
  PrintTable(rows);
  if (!token.empty()) std::fprintf(stderr, "There are more; --limit shows them.\n");
  return kExitOk;
}

void PrintJob(const client::Job& job) {
  std::vector<std::vector<std::string>> rows = {
      {"Job", job.name},
      {"State", absl::StrCat(StateName(job.state), job.waits_for_release ? ", waits until pictures are released" : "")},
      {"Images", absl::StrCat(job.images_completed, " done, ", job.images_failed, " failed, of ", job.image_count, " (",
                              job.prompt_count, " prompts, ", job.seeds_per_prompt, " of each)")},
      {"Picture", absl::StrCat(job.accepted.width, "x", job.accepted.height, ", ", job.accepted.steps, " steps, ",
                               job.accepted.model_name)},
      {"Kept", absl::StrCat(BytesText(job.bytes_retained), " on the coordinator")}};
  if (job.priority.has_value()) rows.push_back({"Priority", PriorityName(*job.priority)});
  if (!job.labels.empty()) rows.push_back({"Labels", LabelsText(job)});
  rows.push_back({"Created", TimeText(job.create_time)});
  if (job.deadline.has_value()) rows.push_back({"Expires", TimeText(*job.deadline)});
  if (job.end_time.has_value()) rows.push_back({"Ended", TimeText(*job.end_time)});
  if (job.delete_time.has_value())
    rows.push_back({"Deleted", absl::StrCat("by itself at ", TimeText(*job.delete_time))});
  PrintTable(rows);
}

struct NamesFlags {
  std::vector<std::string> names;
  bool json = false;
};

// What is done with one job: nothing to show is no job.
using OnName = std::function<absl::StatusOr<std::optional<client::Job>>(Client* client, const std::string& name,
                                                                        const client::JobOptions& options)>;

// The first error is the exit code; the others are done all the same.
int ForEachName(const Globals& globals, const std::string& command, const NamesFlags& flags, std::stop_token stop,
                const OnName& on_name) {
  std::vector<std::string> names;
  for (const std::string& text : flags.names) {
    const absl::StatusOr<std::string> name = JobNameOf(text);
    if (!name.ok()) return FailUsage(command, name.status());
    names.push_back(*name);
  }
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage(command, client.status());
  int code = kExitOk;
  for (const std::string& name : names) {
    const auto job = on_name(&*client, name, {.timeout = kTimeout, .stop = stop, .on_retry = {}});
    if (!job.ok()) {
      const int failed = Fail(globals, job.status());
      if (code == kExitOk) code = failed;
      if (stop.stop_requested() || failed == kExitCannotConnect) return failed;
    } else if (job->has_value() && flags.json) {
      std::printf("%s\n", Dump(JobJson(**job)).c_str());
    } else if (job->has_value()) {
      PrintJob(**job);
    }
  }
  return code;
}

void AddNamesCommand(CLI::App* parent, const Globals* globals, const std::string& name, const std::string& description,
                     const std::string& footer, bool shows, const OnName& on_name, Commands* commands) {
  CLI::App* command = parent->add_subcommand(name, description);
  command->footer(footer);
  const auto flags = std::make_shared<NamesFlags>();
  command->add_option("JOB", flags->names, "One or more jobs, as `job create` and `job list` name them")->required();
  if (shows) command->add_flag("--json", flags->json, "Print one JSON object per job");
  (*commands)[command] = [globals, flags, on_name, name](std::stop_token stop) {
    return ForEachName(*globals, "job " + name, *flags, stop, on_name);
  };
}

void AddListCommand(CLI::App* parent, const Globals* globals, Commands* commands) {
  CLI::App* command = parent->add_subcommand("list", "List jobs, newest first");
  command->footer(
      "\nExamples:\n  turbofleet job list --state running\n  turbofleet job list --label set=night --limit 1000 --json "
      "| jq -r .name");
  const auto flags = std::make_shared<ListFlags>();
  command->add_option("--state", flags->state, "Only jobs that are running, completed, cancelled or expired")
      ->type_name("NAME")
      ->check(CLI::IsMember({"running", "completed", "cancelled", "expired"}));
  command->add_option("-l,--label", flags->labels, "Only jobs with this label; several: with all of them")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--limit", flags->limit, "The most jobs to list")->type_name("N")->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object per job");
  (*commands)[command] = [globals, flags](std::stop_token stop) { return ListJobs(*globals, *flags, stop); };
}

}  // namespace

void AddJobCommand(CLI::App* app, const Globals* globals, Commands* commands) {
  CLI::App* job = app->add_subcommand("job", "Jobs: pictures that the cluster makes while nobody waits");
  job->require_subcommand(1);
  job->footer(R"(
A job lives on the coordinator: it goes on when this program, its machine, workers or the coordinator itself die.
  turbofleet job create --prompts prompts.txt --count 100 --label set=night     Prints its name
  turbofleet job watch JOB --out pictures     Takes the pictures; again after any accident, to go on where it was
  turbofleet job list --state running
  turbofleet job show JOB
  turbofleet job cancel JOB
  turbofleet job delete JOB)");
  AddJobCreateCommand(job, globals, commands);
  AddJobWatchCommand(job, globals, commands);
  AddListCommand(job, globals, commands);
  AddNamesCommand(
      job, globals, "show", "Show how jobs are",
      "\nExamples:\n  turbofleet job show 1a2b\n  turbofleet job show 1a2b --json | jq .images_completed", true,
      [](Client* client, const std::string& name, const client::JobOptions& options) {
        return absl::StatusOr<std::optional<client::Job>>(client->GetJob(name, options));
      },
      commands);
  AddNamesCommand(
      job, globals, "cancel", "End jobs; the pictures that they have stay",
      "\nExamples:\n  turbofleet job cancel 1a2b\n  turbofleet job list --label set=night --json | jq -r .name | xargs "
      "turbofleet job cancel",
      true,
      [](Client* client, const std::string& name, const client::JobOptions& options) {
        return absl::StatusOr<std::optional<client::Job>>(client->CancelJob(name, options));
      },
      commands);
  AddNamesCommand(
      job, globals, "delete", "Delete jobs that have ended, with their pictures on the coordinator",
      "\nExample:\n  turbofleet job delete 1a2b\n\nA job that runs has to be cancelled first. Pictures in folders "
      "stay.",
      false,
      [](Client* client, const std::string& name,
         const client::JobOptions& options) -> absl::StatusOr<std::optional<client::Job>> {
        if (const absl::Status status = client->DeleteJob(name, options); !status.ok()) return status;
        return std::nullopt;
      },
      commands);
}

}  // namespace turbofleet::cli
