#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/batch_input.h"
#include "client/cli/batch_plan.h"
#include "client/cli/command.h"
#include "client/cli/output_flags.h"
#include "client/cli/recipe.h"
#include "client/cli/runner.h"
#include "common/clock.h"
#include "common/errors.h"
#include "common/flags.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

constexpr size_t kInputBytesMax = size_t{2} << 30;

constexpr char kExamples[] = R"(
Input, by the file's ending or --input-format:
  txt     one prompt a line
  jsonl   {"prompt": "a fox", "seed": 7, "width": 512, "height": 768, "id": "fox-7"}
  csv     a header, then rows: prompt,seed,steps
Fields of a row: prompt, negative_prompt, seed, count, width, height, steps, strength, init_image, guidance_scale, id.
What a row sets wins over the options here.

Examples:
  turbofleet batch prompts.txt --out pictures --count 4
  turbofleet batch prompts.csv --size 512x512 --steps 2 --format jpeg --sheet
  generate-prompts | turbofleet batch - --input-format jsonl --json

Rows that are wrong, or that the cluster refuses, go to errors.jsonl in the folder, and the rest goes on. The same
command again makes only what is missing: pictures that manifest.jsonl has from the same request are kept, and
errors.jsonl is written anew. Rows without a seed use --seed.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some rows failed, 4 no connection, 5 deadline, 130 interrupted.)";

struct BatchFlags {
  std::string file;
  std::string input_format;
  uint64_t seed = 0;
  int32_t count = 1;
  int32_t calls_max = 16;
  Recipe recipe;
  OutputFlags output;
};

absl::StatusOr<std::vector<Row>> ReadRows(const BatchFlags& flags) {
  TURBOFLEET_ASSIGN_OR_RETURN(const InputFormat format, flags.input_format.empty()
                                                            ? InputFormatOf(flags.file)
                                                            : ParseInputFormat(flags.input_format));
  std::string text;
  if (flags.file == "-") {
    TURBOFLEET_ASSIGN_OR_RETURN(text, ReadFile("/dev/stdin", kInputBytesMax));
  } else {
    TURBOFLEET_ASSIGN_OR_RETURN(text, ReadFile(flags.file, kInputBytesMax));
  }
  absl::StatusOr<std::vector<Row>> rows = ParseRows(format, text, flags.recipe);
  if (!rows.ok()) return Annotate(rows.status(), flags.file);
  if (rows->empty()) return absl::InvalidArgumentError(absl::StrCat(flags.file, ": there is no row"));
  return rows;
}

// The options themselves must be right, whatever the rows say.
absl::Status CheckFlags(const BatchFlags& flags) {
  TURBOFLEET_ASSIGN_OR_RETURN(client::GenerateRequest request, MakeRequest(flags.recipe));
  request.prompts = {""};
  request.seed = flags.seed;
  request.count = flags.count;
  // A row may bring the guidance or the picture that these need.
  request.negative_prompt.clear();
  if (request.init_image.empty()) request.strength.reset();
  TURBOFLEET_RETURN_IF_ERROR(client::Validate(request));
  if (flags.recipe.strength.has_value() && !(*flags.recipe.strength > 0 && *flags.recipe.strength <= 1)) {
    return InvalidField("strength", absl::StrCat("must be above 0 and at most 1, not ", *flags.recipe.strength));
  }
  if (flags.calls_max < 1 || flags.calls_max > 256) {
    return InvalidField("--calls", absl::StrCat("must be 1 to 256, not ", flags.calls_max));
  }
  return absl::OkStatus();
}

int Batch(const Globals& globals, const BatchFlags& flags, std::stop_token stop) {
  const absl::StatusOr<CheckedOutput> output = CheckOutputFlags(flags.output);
  if (!output.ok()) return FailUsage("batch", output.status());
  if (const absl::Status status = CheckFlags(flags); !status.ok()) return FailUsage("batch", InFlagWords(status));
  const absl::StatusOr<std::vector<Row>> rows = ReadRows(flags);
  if (!rows.ok()) return FailUsage("batch", rows.status());
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("batch", client.status());
  const absl::StatusOr<std::unique_ptr<OutputFolder>> folder = OutputFolder::Open(flags.output.folder, output->names);
  if (!folder.ok()) return Fail(globals, folder.status());
  if (const absl::Status status = (*folder)->ClearErrors(); !status.ok()) return Fail(globals, status);

  const SteadyClock clock;
  Progress progress(ChooseProgressStyle(globals.quiet), &clock);
  Runner runner(&*client, folder->get(), &progress, &clock,
                {.json = flags.output.json,
                 .calls_max = flags.calls_max,
                 .refusals_belong_to_rows = true,
                 .timeout = output->timeout});
  absl::StatusOr<BatchPlan> plan = PlanBatch(
      *rows, flags.seed, flags.count, {}, folder->get(),
      [&runner](const Row& row, const absl::Status& error) { return runner.AddRowError(row.number, row.id, error); });
  if (!plan.ok()) return Fail(globals, plan.status());
  progress.Expect(plan->images);
  const absl::Status status = runner.Run(std::move(plan->calls), stop);
  return FinishRun(globals, flags.output, runner, status, plan->earlier, folder->get(), &progress);
}

}  // namespace

void AddBatchCommand(CLI::App* app, const Globals* globals, Commands* commands) {
  CLI::App* command = app->add_subcommand("batch", "Draw pictures from a file of prompts; again to resume");
  command->footer(kExamples);
  const auto flags = std::make_shared<BatchFlags>();
  command->add_option("FILE", flags->file, "Rows to draw; - for standard input")->required();
  command->add_option("--input-format", flags->input_format, "txt, jsonl or csv (default: by the file's ending)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"txt", "jsonl", "csv"}));
  command->add_option("--calls", flags->calls_max, "Calls at once, 1 to 256")->type_name("N")->capture_default_str();
  command->add_option("-n,--count", flags->count, "Pictures of each row, with seeds from its seed upwards")
      ->type_name("N")
      ->capture_default_str()
      ->group("Picture");
  command->add_option("-s,--seed", flags->seed, "Seed of rows that have none, 0 to 4294967295")
      ->type_name("N")
      ->capture_default_str()
      ->group("Picture");
  AddRecipeFlags(command, &flags->recipe);
  AddOutputFlags(command, &flags->output);
  (*commands)[command] = [globals, flags](std::stop_token stop) { return Batch(*globals, *flags, stop); };
}

}  // namespace turbofleet::cli
