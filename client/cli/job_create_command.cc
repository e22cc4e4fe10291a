#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/batch_input.h"
#include "client/cli/command.h"
#include "client/cli/job_text.h"
#include "client/cli/job_watch_flags.h"
#include "client/cli/recipe.h"
#include "client/cli/table.h"
#include "common/errors.h"
#include "common/flags.h"
#include "common/sha256.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

constexpr size_t kPromptsBytesMax = size_t{4} << 30;

constexpr char kExamples[] = R"(
Examples:
  turbofleet job create "a fox in the snow" --count 1000000 --seed 0 --priority bulk
  turbofleet job create --prompts prompts.txt --count 100 --label set=night --timeout 12h
  turbofleet job create --prompts prompts.txt --watch --out pictures --release
  job=$(turbofleet job create --prompts - --request-id nightly-2026-11-24 < prompts.txt)

Prints the job's name, and leaves in --out what `turbofleet job watch` needs to write a manifest that can be verified.
With a --request-id the same command can be run again, from anywhere: the job is made once.

Exit codes: 0 done, 1 failed, 2 wrong usage, 4 no connection, 130 interrupted; with --watch, those of `job watch`.)";

struct CreateFlags {
  std::vector<std::string> prompts;
  std::string prompts_file;
  std::optional<uint64_t> seed;
  std::optional<int32_t> count;
  std::string seeds;
  std::vector<std::string> labels;
  std::string timeout;
  std::string retention;
  std::string request_id;
  bool watch = false;
  Recipe recipe;
  JobWatchFlags output;
};

absl::StatusOr<client::JobRequest> MakeJobRequest(const CreateFlags& flags) {
  client::JobRequest request;
  TURBOFLEET_ASSIGN_OR_RETURN(request.images, MakeRequest(flags.recipe));
  request.images.prompts = flags.prompts;
  if (!flags.prompts_file.empty()) {
    if (!flags.prompts.empty()) return InvalidField("--prompts", "cannot go together with PROMPT");
    const std::string path = flags.prompts_file == "-" ? "/dev/stdin" : flags.prompts_file;
    TURBOFLEET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kPromptsBytesMax));
    request.images.prompts = ParsePrompts(text);
    if (request.images.prompts.empty()) {
      return InvalidField("--prompts", absl::StrCat(flags.prompts_file, " has no prompt"));
    }
  }
  request.images.seed = flags.seed;
  request.images.count = flags.count;
  if (!flags.seeds.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(request.images.seeds, ParseSeeds(flags.seeds));
  }
  TURBOFLEET_ASSIGN_OR_RETURN(request.labels, ParseLabels(flags.labels));
  if (!flags.timeout.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(request.timeout, ParseTime("--timeout", flags.timeout));
  }
  if (!flags.retention.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(request.retention, ParseTime("--retention", flags.retention));
  }
  request.request_id = flags.request_id;
  TURBOFLEET_RETURN_IF_ERROR(client::Validate(request));
  return request;
}

JobRecord MakeRecord(const std::string& job, const Recipe& recipe, client::JobRequest request,
                     const OutputFolder& folder) {
  JobRecord record;
  record.job = job;
  record.prompts = std::move(request.images.prompts);
  record.negative_prompt = recipe.negative_prompt;
  record.guidance_scale = recipe.guidance_scale.value_or(0);
  record.quality = recipe.quality;
  record.vae = recipe.vae.value_or("full");
  if (!recipe.init_image_path.empty()) {
    record.init_image = folder.RelativePath(recipe.init_image_path);
    record.init_image_sha256 = Sha256Hex(request.images.init_image.data(), request.images.init_image.size());
  }
  return record;
}

// What would be ignored is refused.
absl::Status CheckWatchFlags(const CreateFlags& flags) {
  if (flags.watch) return absl::OkStatus();
  const JobWatchFlags defaults;
  const std::pair<const char*, bool> given[] = {
      {"--ordered", flags.output.ordered},
      {"--release", flags.output.release},
      {"--sheet", flags.output.output.sheet},
      {"--name-template", flags.output.output.name_template != defaults.output.name_template}};
  for (const auto& [flag, is_given] : given) {
    if (is_given) return InvalidField(flag, "has no effect without --watch");
  }
  return absl::OkStatus();
}

// A folder that has a job already is found out before another job is made.
absl::Status CheckFolder(const CreateFlags& flags, const JobFolder& folder) {
  if (folder.record().job.empty() || !flags.request_id.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(flags.output.output.folder, " has pictures of ",
                                                    folder.record().job, "; go on with `turbofleet job watch ",
                                                    JobIdOf(folder.record().job), "`, or choose another --out"));
}

void PrintCreated(const client::Job& job, const CreateFlags& flags) {
  if (!flags.output.output.json) {
    std::printf("%s\n", job.name.c_str());
  } else if (flags.watch) {
    // Standard output is for the pictures.
    std::fprintf(stderr, "%s\n", job.name.c_str());
  } else {
    std::printf("%s\n", Dump(JobJson(job)).c_str());
  }
  std::fflush(stdout);
}

int CreateJob(const Globals& globals, const CreateFlags& flags, std::stop_token stop) {
  const absl::StatusOr<CheckedOutput> output = CheckOutputFlags(flags.output.output);
  if (!output.ok()) return FailUsage("job create", output.status());
  if (const absl::Status status = CheckWatchFlags(flags); !status.ok()) return FailUsage("job create", status);
  absl::StatusOr<client::JobRequest> request = MakeJobRequest(flags);
  if (!request.ok()) return FailUsage("job create", InFlagWords(request.status()));
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("job create", client.status());
  absl::StatusOr<std::unique_ptr<JobFolder>> folder = nullptr;
  if (IsFolderNamed(flags.output)) {
    folder = OpenJobFolder(flags.output, output->names, "");
    if (!folder.ok()) return Fail(globals, folder.status());
    if (const absl::Status status = CheckFolder(flags, **folder); !status.ok()) return Fail(globals, status);
  }

  const absl::StatusOr<client::Job> job =
      client->CreateJob(*request, {.timeout = output->timeout, .stop = stop, .on_retry = {}});
  if (!job.ok()) return Fail(globals, InFlagWords(job.status()));
  PrintCreated(*job, flags);
  const absl::StatusOr<std::string> name = JobNameOf(job->name);
  if (!name.ok()) return Fail(globals, name.status());
  if (*folder == nullptr) folder = OpenJobFolder(flags.output, output->names, *name);
  if (!folder.ok()) return Fail(globals, folder.status());
  JobRecord record = MakeRecord(*name, flags.recipe, *std::move(request), *(*folder)->output());
  if (const absl::Status status = (*folder)->SetRecord(std::move(record)); !status.ok()) return Fail(globals, status);
  if (flags.watch) return WatchIntoFolder(globals, flags.output, *output, &*client, folder->get(), stop);
  return kExitOk;
}

void AddJobFlags(CLI::App* command, CreateFlags* flags) {
  constexpr char kGroup[] = "Job";
  command->add_option("-l,--label", flags->labels, "To find the job by; up to 16")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->allow_extra_args(false)
      ->group(kGroup);
  command
      ->add_option("--timeout", flags->timeout,
                   "What is not finished by then is given up, such as 90m (default: never)")
      ->type_name("TIME")
      ->group(kGroup);
  command
      ->add_option("--retention", flags->retention,
                   "How long the coordinator keeps the job and its pictures after its end (default: as configured)")
      ->type_name("TIME")
      ->group(kGroup);
  command->add_option("--request-id", flags->request_id, "A name for this creation: the same one again is the same job")
      ->type_name("TEXT")
      ->group(kGroup);
  command->add_flag("--watch", flags->watch, "Stay, and take the pictures as `job watch` does")->group("Watch");
}

}  // namespace

void AddJobCreateCommand(CLI::App* parent, const Globals* globals, Commands* commands) {
  CLI::App* command = parent->add_subcommand("create", "Create a job, and print its name");
  command->footer(kExamples);
  const auto flags = std::make_shared<CreateFlags>();
  command->add_option("PROMPT", flags->prompts, "What to draw; one or more, each in quotes");
  command
      ->add_option("--prompts", flags->prompts_file, "Instead of PROMPT: a file with one a line; - for standard input")
      ->type_name("FILE");
  command
      ->add_option("-n,--count", flags->count, "Pictures of each prompt, with seeds from --seed upwards (default: 1)")
      ->type_name("N")
      ->group("Picture");
  command->add_option("-s,--seed", flags->seed, "Seed of the first picture, 0 to 4294967295 (default: a random one)")
      ->type_name("N")
      ->group("Picture");
  command->add_option("--seeds", flags->seeds, "Instead of --seed and --count: seeds and ranges, such as 1,5,10-20")
      ->type_name("LIST")
      ->group("Picture");
  AddRecipeFlags(command, &flags->recipe);
  AddJobFlags(command, flags.get());
  AddJobWatchFlags(command, &flags->output);
  (*commands)[command] = [globals, flags](std::stop_token stop) { return CreateJob(*globals, *flags, stop); };
}

}  // namespace turbofleet::cli
