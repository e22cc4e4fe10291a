// Command lines with one precedence in every program: flag, then environment, then config file, then default.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"

namespace turbofleet {

// Exit codes that all programs share.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitSomeFailed = 3;  // Some images failed, the others are there.
inline constexpr int kExitCannotConnect = 4;
inline constexpr int kExitDeadline = 5;
inline constexpr int kExitInterrupted = 130;

// A CLI11 application with --help, --version and --config (TOML; default the file of TURBOFLEET_CONFIG, else
// $XDG_CONFIG_HOME/turbofleet/<program>.toml if it exists). Each option `--some-name`, of subcommands too, is also read
// from the environment variable TURBOFLEET_SOME_NAME. CLI11 alone would let the file win over the environment, and ends
// with its own exit codes; this puts both right.
class Flags {
 public:
  Flags(const std::string& program, const std::string& description);

  CLI::App& app() { return app_; }

  // Parses after all options were added. Nothing: go on. Otherwise exit with that code: help or version was printed to
  // standard output, or an error with a hint to standard error.
  std::optional<int> Parse(int argc, const char* const* argv);

 private:
  const std::string program_;
  CLI::App app_;
};

}  // namespace turbofleet
