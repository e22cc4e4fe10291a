#include "client/cli/help_formatter.h"

namespace turbofleet::cli {

HelpFormatter::HelpFormatter() { column_width(36); }

std::string HelpFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const {
  std::string help = CLI::Formatter::make_help(app, name, mode);
  const CLI::App* root = app;
  while (root->get_parent() != nullptr) root = root->get_parent();
  if (root == app || mode != CLI::AppFormatMode::Normal) return help;
  std::string shared;
  for (const char* group : {"Connection", "Transport security"}) {
    const std::string text = make_group(
        group, false, root->get_options([group](const CLI::Option* option) { return option->get_group() == group; }));
    shared += text;
  }
  const std::string footer = make_footer(app);
  const size_t end = help.size() - footer.size();
  return help.substr(0, end) + shared + footer;
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  const std::string footer = app->get_footer();
  return footer.empty() ? "\n" : footer + "\n";
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (option->get_type_size() == 0) return "";
  std::string text;
  if (!option->get_type_name().empty())
    text = " " + option->get_type_name().substr(0, option->get_type_name().find(":{"));
  if (!option->get_default_str().empty()) text += " [" + option->get_default_str() + "]";
  return text;
}

}  // namespace turbofleet::cli
