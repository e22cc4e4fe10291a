#include "common/flags.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "common/version.h"
#include "toml++/toml.h"

namespace turbofleet {
namespace {

constexpr int kSuggestionDistanceMax = 3;

std::string GetEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

// A value of the file as CLI11 wants it: text. Dates and tables in arrays mean nothing to any option.
std::string ScalarText(const std::string& key, const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* boolean = node.as_boolean()) return boolean->get() ? "true" : "false";
  if (node.is_integer() || node.is_floating_point()) {
    std::ostringstream stream;
    node.visit([&](const auto& value) {
      if constexpr (toml::is_number<decltype(value)>) stream << value;
    });
    return stream.str();
  }
  throw CLI::ConfigError(key + ": expected a text, a number, true, false, or an array of these");
}

void AppendItems(const toml::table& table, const std::vector<std::string>& parents,
                 std::vector<CLI::ConfigItem>* items) {
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (const auto* inner = node.as_table()) {
      std::vector<std::string> path = parents;
      path.push_back(name);
      AppendItems(*inner, path, items);
      continue;
    }
    // The environment wins over the file. CLI11 reads the file first and keeps what it finds first.
    if (!GetEnvironment(EnvironmentNameOf(name)).empty()) continue;
    CLI::ConfigItem item;
    item.parents = parents;
    item.name = name;
    if (const auto* array = node.as_array()) {
      for (const auto& element : *array) item.inputs.push_back(ScalarText(name, element));
    } else {
      item.inputs.push_back(ScalarText(name, node));
    }
    items->push_back(std::move(item));
  }
}

// CLI11's own reader guesses where TOML is strict, and would take a misspelt line for something else.
class TomlConfig : public CLI::ConfigTOML {
 public:
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> items;
    try {
      AppendItems(toml::parse(input), {}, &items);
    } catch (const toml::parse_error& error) {
      std::ostringstream message;
      message << "config file, line " << error.source().begin.line << ": " << error.description();
      throw CLI::ConfigError(message.str());
    }
    return items;
  }
};

// Gives every option its variable. Subcommands whose name is not on the command line are left out, so that a value that
// is wrong for one command does not stop another.
void BindEnvironment(CLI::App* app, const std::set<std::string>& words) {
  for (CLI::Option* option : app->get_options([](const CLI::Option* o) { return o->get_configurable(); })) {
    if (option->get_lnames().empty() || !option->get_envname().empty()) continue;
    option->envname(EnvironmentNameOf(option->get_lnames().front()));
  }
  for (CLI::App* subcommand : app->get_subcommands([](const CLI::App*) { return true; })) {
    if (subcommand->get_name().empty() || words.count(subcommand->get_name()) > 0) BindEnvironment(subcommand, words);
  }
}

std::string DefaultConfigPath(const std::string& program) {
  std::string base = GetEnvironment("XDG_CONFIG_HOME");
  if (base.empty()) {
    const std::string home = GetEnvironment("HOME");
    if (home.empty()) return "";
    base = home + "/.config";
  }
  return base + "/turbofleet/" + program + ".toml";
}

int EditDistance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substitution = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitution});
    }
  }
  return row[b.size()];
}

// The option or subcommand of `app` that `word` was probably meant to be, or "".
std::string Suggestion(const CLI::App& app, const std::string& word) {
  std::string best;
  int best_distance = std::min<int>(kSuggestionDistanceMax, static_cast<int>(word.size()) / 2) + 1;
  const auto consider = [&](const std::string& candidate) {
    const int distance = EditDistance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  };
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) consider("--" + name);
  }
  for (const CLI::App* subcommand : app.get_subcommands([](const CLI::App*) { return true; })) {
    consider(subcommand->get_name());
  }
  return best;
}

// The subcommand that was being parsed, for the hint.
const CLI::App* DeepestParsed(const CLI::App* app) {
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

// The variable that the value an error complains of came from, or "".
std::string BlamedVariable(const CLI::App& app, const std::string& message, int argc, const char* const* argv) {
  const std::string option = message.substr(0, message.find(':'));
  if (!option.starts_with("--") || option == message) return "";
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == option || word.starts_with(option + "=")) return "";
  }
  const CLI::Option* found = app.get_option_no_throw(option);
  if (found == nullptr || GetEnvironment(found->get_envname()).empty()) return "";
  return found->get_envname();
}

}  // namespace

std::string EnvironmentNameOf(const std::string& option) {
  std::string name = "TURBOFLEET_";
  for (const char c : option.substr(std::min(option.find_first_not_of('-'), option.size()))) {
    name.push_back(c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  }
  return name;
}

Flags::Flags(const std::string& program, const std::string& description)
    : program_(program), app_(description, program) {
  app_.set_help_flag("-h,--help", "Print this help and exit");
  app_.set_version_flag("--version", program + " " + TURBOFLEET_VERSION, "Print the version and exit");
  app_.set_config("--config", DefaultConfigPath(program), "TOML file with values for options that are not given here")
      ->type_name("FILE");
  app_.config_formatter(std::make_shared<TomlConfig>());
  app_.allow_config_extras(CLI::config_extras_mode::error);
}

std::optional<int> Flags::Parse(int argc, const char* const* argv) {
  const std::set<std::string> words(argv + std::min(argc, 1), argv + argc);
  BindEnvironment(&app_, words);
  const std::string config = GetEnvironment("TURBOFLEET_CONFIG");
  if (!config.empty()) {
    app_.get_config_ptr()->default_str(config);
    std::error_code error;
    if (!std::filesystem::is_regular_file(config, error) && words.count("--help") + words.count("-h") == 0) {
      std::cerr << program_ << ": TURBOFLEET_CONFIG: cannot read " << config << "\n";
      return kExitUsage;
    }
  }
  try {
    app_.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return ReportError(error, argc, argv);
  } catch (const std::exception& error) {
    std::cerr << program_ << ": " << error.what() << "\n";
    return kExitUsage;
  }
}

std::optional<int> Flags::ReportError(const CLI::ParseError& error, int argc, const char* const* argv) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    app_.exit(error, std::cout, std::cerr);
    return kExitOk;
  }
  const CLI::App* deepest = DeepestParsed(&app_);
  std::cerr << program_ << ": " << error.what();
  const std::string variable = BlamedVariable(*deepest, error.what(), argc, argv);
  if (!variable.empty()) std::cerr << " (from the environment variable " << variable << ")";
  std::cerr << "\n";
  for (const std::string& word : app_.remaining(/*recurse=*/true)) {
    const std::string suggestion = Suggestion(*deepest, word.substr(0, word.find('=')));
    if (!suggestion.empty()) std::cerr << "Did you mean " << suggestion << "?\n";
  }
  std::string command;
  for (const CLI::App* app = deepest; app != &app_; app = app->get_parent()) command = " " + app->get_name() + command;
  std::cerr << "Run '" << program_ << command << " --help' to see what it takes.\n";
  return kExitUsage;
}

}  // namespace turbofleet
