#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/output_flags.h"
#include "client/cli/recipe.h"
#include "client/cli/runner.h"
#include "common/clock.h"
#include "common/errors.h"
#include "common/flags.h"
#include "common/sha256.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

constexpr char kExamples[] = R"(
Examples:
  turbofleet generate "a red circle on a blue background"
  turbofleet generate "a fox in the snow" --count 16 --seed 100 --sheet
  turbofleet generate "a lighthouse" "a windmill" --seeds 1,7,20-29 --size 512x768 --steps 2 --out pictures
  turbofleet generate "the same, as a watercolour" --init-image photo.jpg --strength 0.6 --steps 4
  turbofleet generate "a fox" -n 1000 -s 0 --json | jq -r .path
  turbofleet generate "a fox" -n 1000 -s 0 --resume      # only what an earlier run did not finish

Every prompt is drawn with every seed. Files are named INDEX-SEED.png; a folder that has pictures already keeps
them, and numbering goes on after the last. What a picture was made from is in manifest.jsonl beside it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some pictures failed, 4 no connection, 5 deadline, 130 interrupted.)";

// A slip of the keyboard must not fill the memory with seeds. How many a cluster takes in one call is its own to say.
constexpr size_t kImagesMax = 1'000'000;

struct GenerateFlags {
  std::vector<std::string> prompts;
  std::optional<uint64_t> seed;
  std::optional<int32_t> count;
  std::string seeds;
  bool resume = false;
  Recipe recipe;
  OutputFlags output;
};

void AddFlags(CLI::App* command, GenerateFlags* flags) {
  command->add_option("PROMPT", flags->prompts, "What to draw; one or more, each in quotes")->required();
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
  AddOutputFlags(command, &flags->output);
  command->add_flag("--resume", flags->resume, "Skip pictures that the folder has from the same request; needs seeds")
      ->group("Output");
}

// The request without images that the folder has; numbers the others.
std::vector<Call> PlanCalls(const Call& whole, bool resume, OutputFolder* folder, int64_t* earlier) {
  const client::GenerateRequest& request = whole.request;
  std::vector<uint64_t> seeds = request.seeds;
  const auto per_prompt = static_cast<int64_t>(seeds.empty() ? request.count.value_or(1) : seeds.size());
  if (!resume) {
    Call call = whole;
    for (size_t i = 0; i < request.prompts.size(); ++i) {
      Source& source = call.sources[i];
      for (int64_t j = 0; j < per_prompt; ++j) source.indexes.push_back(folder->TakeIndex(folder->next_index()));
    }
    return {std::move(call)};
  }
  if (seeds.empty()) {
    for (int64_t j = 0; j < per_prompt; ++j) seeds.push_back(*request.seed + static_cast<uint64_t>(j));
  }
  std::vector<Call> calls;
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    Call call = whole;
    call.request.prompts = {request.prompts[i]};
    call.request.seed.reset();
    call.request.count.reset();
    call.request.seeds.clear();
    call.sources.resize(1);
    for (size_t j = 0; j < seeds.size(); ++j) {
      if (folder->TakeEarlier(RequestFingerprint(whole, i, seeds[j])) != nullptr) {
        ++*earlier;
        continue;
      }
      call.request.seeds.push_back(seeds[j]);
      call.sources[0].indexes.push_back(folder->TakeIndex(static_cast<int64_t>(i * seeds.size() + j)));
    }
    if (!call.request.seeds.empty()) calls.push_back(std::move(call));
  }
  return calls;
}

absl::StatusOr<Call> MakeCall(const GenerateFlags& flags) {
  Call call;
  TURBOFLEET_ASSIGN_OR_RETURN(call.request, MakeRequest(flags.recipe));
  call.request.prompts = flags.prompts;
  call.request.seed = flags.seed;
  call.request.count = flags.count;
  if (!flags.seeds.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(call.request.seeds, ParseSeeds(flags.seeds));
  }
  call.sources.resize(flags.prompts.size());
  if (!call.request.init_image.empty()) {
    call.init_image_path = flags.recipe.init_image_path;
    call.init_image_sha256 = Sha256Hex(call.request.init_image.data(), call.request.init_image.size());
  }
  TURBOFLEET_RETURN_IF_ERROR(client::Validate(call.request));
  const size_t per_prompt =
      call.request.seeds.empty() ? static_cast<size_t>(call.request.count.value_or(1)) : call.request.seeds.size();
  if (per_prompt * call.request.prompts.size() > kImagesMax) {
    return InvalidField("count", absl::StrCat("asks for more than ", kImagesMax, " pictures in one command"));
  }
  if (flags.resume && flags.seeds.empty() && !flags.seed.has_value()) {
    return InvalidField("--resume", "needs --seed or --seeds; pictures from random seeds cannot be found again");
  }
  return call;
}

int Generate(const Globals& globals, const GenerateFlags& flags, std::stop_token stop) {
  const absl::StatusOr<CheckedOutput> output = CheckOutputFlags(flags.output);
  if (!output.ok()) return FailUsage("generate", output.status());
  const absl::StatusOr<Call> whole = MakeCall(flags);
  if (!whole.ok()) return FailUsage("generate", InFlagWords(whole.status()));
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("generate", client.status());
  const absl::StatusOr<std::unique_ptr<OutputFolder>> folder = OutputFolder::Open(flags.output.folder, output->names);
  if (!folder.ok()) return Fail(globals, folder.status());

  int64_t earlier = 0;
  std::vector<Call> calls = PlanCalls(*whole, flags.resume, folder->get(), &earlier);
  const SteadyClock clock;
  Progress progress(ChooseProgressStyle(globals.quiet), &clock);
  Runner runner(&*client, folder->get(), &progress, &clock,
                {.json = flags.output.json, .calls_max = 4, .timeout = output->timeout});
  for (const Call& call : calls) {
    for (const Source& source : call.sources) progress.Expect(static_cast<int64_t>(source.indexes.size()));
  }
  const absl::Status status = runner.Run(std::move(calls), stop);
  return FinishRun(globals, flags.output, runner, status, earlier, folder->get(), &progress);
}

}  // namespace

void AddGenerateCommand(CLI::App* app, const Globals* globals, Commands* commands) {
  CLI::App* command = app->add_subcommand("generate", "Draw pictures from text, or from text and a picture");
  command->footer(kExamples);
  const auto flags = std::make_shared<GenerateFlags>();
  AddFlags(command, flags.get());
  (*commands)[command] = [globals, flags](std::stop_token stop) { return Generate(*globals, *flags, stop); };
}

}  // namespace turbofleet::cli
