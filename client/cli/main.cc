// The command line of Turbofleet.
#include <unistd.h>

#include <csignal>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "client/cli/command.h"
#include "client/cli/help_formatter.h"
#include "common/flags.h"
#include "common/signals.h"
#include "common/standard_flags.h"

namespace turbofleet::cli {
namespace {

constexpr char kExamples[] = R"(
Start here:
  turbofleet status                                   Is there a cluster, and how is it?
  turbofleet generate "a red circle" --count 4        Four pictures in out/
  turbofleet batch prompts.csv --out pictures         Thousands, from a file
  turbofleet job create --prompts prompts.txt         Millions, that the cluster makes while nobody waits
  turbofleet generate --help                          Each command explains itself, with examples

Every option is also read from TURBOFLEET_OPTION_NAME and from the --config file; the command line wins.)";

int Main(int argc, char** argv) {
  Flags flags("turbofleet", "Makes pictures with SD-Turbo on a Turbofleet cluster.");
  CLI::App& app = flags.app();
  app.footer(kExamples);
  app.require_subcommand(1);
  app.fallthrough();
  app.formatter(std::make_shared<HelpFormatter>());
  Globals globals;
  app.add_option("-c,--coordinator", globals.coordinator, "Where the coordinator listens")
      ->type_name("HOST:PORT")
      ->capture_default_str()
      ->group("Connection");
  app.add_flag("-q,--quiet", globals.quiet, "Say nothing but errors")->group("Connection");
  AddTlsFlags(app, TlsRole::kChannel, &globals.tls);
  Commands commands;
  AddGenerateCommand(&app, &globals, &commands);
  AddBatchCommand(&app, &globals, &commands);
  AddJobCommand(&app, &globals, &commands);
  AddWorkersCommand(&app, &globals, &commands);
  AddStatusCommand(&app, &globals, &commands);
  AddVerifyCommand(&app, &globals, &commands);
  AddCompletionCommand(&app, &commands);
  AddVersionCommand(&app, &commands);
  if (const std::optional<int> code = flags.Parse(argc, argv); code.has_value()) return *code;

  // A reader that went away, as `head` does, is an error of write() and no sudden death.
  std::signal(SIGPIPE, SIG_IGN);
  std::stop_source stop;
  const SignalWaiter signals([&stop](int count) {
    if (count > 1) _exit(kExitInterrupted);
    stop.request_stop();
  });
  const CLI::App* command = app.get_subcommands().front();
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  return commands.at(command)(stop.get_token());
}

}  // namespace
}  // namespace turbofleet::cli

int main(int argc, char** argv) { return turbofleet::cli::Main(argc, argv); }
