#include "client/cli/output_flags.h"

#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/contact_sheet.h"
#include "client/cli/recipe.h"
#include "common/errors.h"
#include "common/flags.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

constexpr char kGroup[] = "Output";

absl::Status WriteSheet(const OutputFlags& flags, const OutputFolder& folder, Progress* progress) {
  const std::string file = flags.sheet_file.empty() ? folder.path() + "/sheet.png" : flags.sheet_file;
  TURBOFLEET_ASSIGN_OR_RETURN(const SheetSummary summary, WriteContactSheet(folder.manifest_path(), file));
  progress->Note(summary.left_out == 0 ? absl::StrCat("Contact sheet: ", file)
                                       : absl::StrCat("Contact sheet: ", file, " (the first ", summary.shown,
                                                      " pictures; ", summary.left_out, " more are in the folder)"));
  return absl::OkStatus();
}

}  // namespace

void AddOutputFlags(CLI::App* command, OutputFlags* flags) {
  command->add_option("-o,--out", flags->folder, "Folder for pictures, manifest.jsonl and errors.jsonl")
      ->type_name("DIR")
      ->capture_default_str()
      ->group(kGroup);
  command
      ->add_option("--name-template", flags->name_template,
                   "File names: {index}, {index:06d}, {seed}, {id} and {prompt} are filled in")
      ->type_name("TEXT")
      ->capture_default_str()
      ->group(kGroup);
  command
      ->add_option_function<std::vector<std::string>>(
          "--sheet",
          [flags](const std::vector<std::string>& values) {
            flags->sheet = true;
            // CLI11 passes an empty value when the file is left out.
            if (!values.empty() && !values[0].empty() && values[0] != "{}") flags->sheet_file = values[0];
          },
          "Also write a contact sheet of the folder's pictures, to FILE.png (default: sheet.png in the folder)")
      ->expected(0, 1)
      ->type_name("[FILE]")
      ->group(kGroup);
  command->add_flag("--json", flags->json, "Print one JSON object per picture on standard output, and nothing else")
      ->group(kGroup);
  command
      ->add_option("--deadline", flags->deadline, "Give up after this time, such as 90s, 5m or 1h30m (default: never)")
      ->type_name("TIME")
      ->group(kGroup);
}

absl::StatusOr<CheckedOutput> CheckOutputFlags(const OutputFlags& flags) {
  CheckedOutput checked;
  TURBOFLEET_ASSIGN_OR_RETURN(checked.names, NameTemplate::Parse(flags.name_template));
  if (!flags.deadline.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(checked.timeout, ParseDeadline(flags.deadline));
  }
  if (!flags.sheet_file.empty() && !absl::EndsWith(flags.sheet_file, ".png")) {
    return InvalidField("--sheet", absl::StrCat("its file must end in .png, not be '", flags.sheet_file,
                                                "'; prompts go before --sheet"));
  }
  if (flags.folder.empty()) return InvalidField("--out", "is empty");
  return checked;
}

int FinishRun(const Globals& globals, const OutputFlags& flags, const PictureWriter& writer, const absl::Status& status,
              int64_t earlier, OutputFolder* folder, Progress* progress) {
  progress->Finish();
  absl::Status sheet;
  if (flags.sheet && writer.images() + earlier > 0) sheet = WriteSheet(flags, *folder, progress);
  const absl::Duration elapsed = progress->state().elapsed;
  std::string summary = absl::StrCat(writer.images(), writer.images() == 1 ? " picture" : " pictures", " in ",
                                     folder->path(), " after ", MinutesText(elapsed));
  if (earlier > 0) absl::StrAppend(&summary, "; ", earlier, " were there already");
  progress->Note(summary);
  if (writer.failures() > 0) {
    progress->Note(absl::StrCat(writer.failures(), " failed: see ", folder->errors_path()));
  }
  if (!status.ok()) return Fail(globals, InFlagWords(status));
  if (!sheet.ok()) return Fail(globals, sheet);
  if (writer.failures() == 0) return kExitOk;
  return writer.images() + earlier > 0 ? kExitSomeFailed : kExitFailed;
}

}  // namespace turbofleet::cli
