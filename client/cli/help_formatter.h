// Help of a subcommand that also shows the options which stand beside every subcommand.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace turbofleet::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();

  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
  // Examples keep their line breaks and come last.
  std::string make_footer(const CLI::App* app) const override;
  // "-o,--out DIR [out]": the name, the kind of value, the default.
  std::string make_option_opts(const CLI::Option* option) const override;
};

}  // namespace turbofleet::cli
