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

// A CLI11 application with --help, --version and --config. The config file is TOML: `option = value`, and one table per
// subcommand; a key that no option has is an error. It is the file that --config or TURBOFLEET_CONFIG names, or else
// $XDG_CONFIG_HOME/turbofleet/<program>.toml if that exists. Each option `--some-name`, of subcommands too, is also
// read from the environment variable TURBOFLEET_SOME_NAME; an empty one counts as not set. CLI11 alone would let the
// file win over the environment, and ends with its own exit codes; this puts both right.
//
// Thread-compatible.
class Flags {
 public:
  // `description` is the first line of --help.
  Flags(const std::string& program, const std::string& description);

  CLI::App& app() { return app_; }

  // Parses after all options were added. Nothing: go on. Otherwise exit with that code: help or version was printed to
  // standard output, or an error with a hint to standard error. REQUIRES: called once.
  std::optional<int> Parse(int argc, const char* const* argv);

 private:
  std::optional<int> ReportError(const CLI::ParseError& error, int argc, const char* const* argv);

  const std::string program_;
  CLI::App app_;
};

// The environment variable of an option: "--tls-cert" is TURBOFLEET_TLS_CERT.
std::string EnvironmentNameOf(const std::string& option);

}  // namespace turbofleet
