// What the subcommands of `turbofleet` share.
#pragma once

#include <functional>
#include <map>
#include <stop_token>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/credentials.h"
#include "turbofleet/client.h"

namespace turbofleet::cli {

// Options that stand beside every subcommand.
struct Globals {
  std::string coordinator = "localhost:50051";
  TlsOptions tls;
  bool quiet = false;
};

// Runs a parsed subcommand; `stop` is requested at Ctrl-C. Returns the exit code.
using Command = std::function<int(std::stop_token stop)>;
using Commands = std::map<const CLI::App*, Command>;

// Each adds one subcommand to `app` and what runs it to `commands`. `globals` outlives them.
void AddGenerateCommand(CLI::App* app, const Globals* globals, Commands* commands);
void AddBatchCommand(CLI::App* app, const Globals* globals, Commands* commands);
void AddJobCommand(CLI::App* app, const Globals* globals, Commands* commands);
void AddJobCreateCommand(CLI::App* job, const Globals* globals, Commands* commands);
void AddJobWatchCommand(CLI::App* job, const Globals* globals, Commands* commands);
void AddWorkersCommand(CLI::App* app, const Globals* globals, Commands* commands);
void AddStatusCommand(CLI::App* app, const Globals* globals, Commands* commands);
void AddVerifyCommand(CLI::App* app, const Globals* globals, Commands* commands);
void AddCompletionCommand(CLI::App* app, Commands* commands);
void AddVersionCommand(CLI::App* app, Commands* commands);

absl::StatusOr<Client> Connect(const Globals& globals);

// Prints an error to standard error, with what to do about it where that is known, and returns the exit code that goes
// with it.
int Fail(const Globals& globals, const absl::Status& status);

// A wrong value on the command line: prints it with a hint at `turbofleet COMMAND --help`.
int FailUsage(const std::string& command, const absl::Status& status);

}  // namespace turbofleet::cli
