// Where pictures go and how the run is told: the flags that commands which draw share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/command.h"
#include "client/cli/output_folder.h"
#include "client/cli/picture_writer.h"
#include "client/cli/runner.h"

namespace turbofleet::cli {

struct OutputFlags {
  std::string folder = "out";
  std::string name_template = "{index:06d}-{seed}";
  bool sheet = false;
  std::string sheet_file;  // Empty: sheet.png in the folder.
  bool json = false;
  std::string deadline;
};

void AddOutputFlags(CLI::App* command, OutputFlags* flags);

// All that can be checked of them before anything is touched.
struct CheckedOutput {
  NameTemplate names;
  std::optional<absl::Duration> timeout;
};
absl::StatusOr<CheckedOutput> CheckOutputFlags(const OutputFlags& flags);

// Ends a run: contact sheet, summary, exit code. `earlier` are pictures of a previous run that belong to this one.
int FinishRun(const Globals& globals, const OutputFlags& flags, const PictureWriter& writer, const absl::Status& status,
              int64_t earlier, OutputFolder* folder, Progress* progress);
inline int FinishRun(const Globals& globals, const OutputFlags& flags, const Runner& runner, const absl::Status& status,
                     int64_t earlier, OutputFolder* folder, Progress* progress) {
  return FinishRun(globals, flags, runner.writer(), status, earlier, folder, progress);
}

}  // namespace turbofleet::cli
