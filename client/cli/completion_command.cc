// `completion`: scripts for shells, made from the options themselves.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/cli/command.h"
#include "common/flags.h"

namespace turbofleet::cli {
namespace {

struct Word {
  std::string text;  // "--seed" or "-s".
  std::string help;
  bool takes_value = false;
  std::string values;  // "png jpeg": those that are taken, if they are few.
};

// CLI11 tells the values of IsMember() only as a part of the type's name: "NAME:{png,jpeg}".
std::string ValuesOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t open = type.find(":{"), close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos) return "";
  return absl::StrReplaceAll(type.substr(open + 2, close - open - 2), {{",", " "}});
}

std::vector<Word> OptionsOf(const CLI::App& app) {
  std::vector<Word> words;
  for (const CLI::Option* option : app.get_options()) {
    const auto add = [&](const std::string& text) {
      words.push_back({text, option->get_description(), option->get_type_size() > 0, ValuesOf(*option)});
    };
    for (const std::string& name : option->get_lnames()) add("--" + name);
    for (const std::string& name : option->get_snames()) add("-" + name);
  }
  return words;
}

// The values of an argument without a name, such as the SHELL here.
std::string ArgumentValuesOf(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional() && !ValuesOf(*option).empty()) return ValuesOf(*option);
  }
  return "";
}

std::vector<const CLI::App*> CommandsOf(const CLI::App& root) {
  return root.get_subcommands([](const CLI::App* command) { return !command->get_name().empty(); });
}

std::string Texts(const std::vector<Word>& words) {
  return absl::StrJoin(words, " ", [](std::string* out, const Word& word) { absl::StrAppend(out, word.text); });
}

std::string CommandNames(const CLI::App& root) {
  return absl::StrJoin(CommandsOf(root), " ",
                       [](std::string* out, const CLI::App* command) { absl::StrAppend(out, command->get_name()); });
}

struct Command {
  std::string path;  // "generate", "job/create".
  const CLI::App* app;
};

// All subcommands, those of subcommands too, each after its parent.
std::vector<Command> AllCommands(const CLI::App& app, const std::string& prefix = "") {
  std::vector<Command> commands;
  for (const CLI::App* command : CommandsOf(app)) {
    commands.push_back({absl::StrCat(prefix, command->get_name()), command});
    for (Command& inner : AllCommands(*command, commands.back().path + "/")) commands.push_back(std::move(inner));
  }
  return commands;
}

// What follows a subcommand is a subcommand of its own, or its options, a value, or a file.
std::string BashScript(const CLI::App& root) {
  std::string paths, cases, values;
  for (const auto& [path, command] : AllCommands(root)) {
    const size_t slash = path.find('/');
    absl::StrAppend(&paths, paths.empty() ? "" : "|", slash == std::string::npos ? "/" : "", path);
    const std::string inner = CommandNames(*command);
    absl::StrAppend(&cases, "    ", path, ") words='", inner, inner.empty() ? "" : " ", Texts(OptionsOf(*command)), " ",
                    Texts(OptionsOf(root)), "' arguments='", ArgumentValuesOf(*command), "'",
                    inner.empty() ? " files=1" : "", " ;;\n");
    for (const Word& word : OptionsOf(*command)) {
      if (word.values.empty()) continue;
      absl::StrAppend(&values, "    '", path, " ", word.text, "') arguments='", word.values, "' ;;\n");
    }
  }
  return absl::StrCat(
      "_turbofleet() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} command='' arguments='' files='' words word\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    case \"$command/$word\" in ",
      paths,
      ") command=${command:+$command/}$word ;; esac\n"
      "  done\n"
      "  case $command in\n",
      cases, "    *) words='", CommandNames(root), " ", Texts(OptionsOf(root)),
      "' ;;\n"
      "  esac\n"
      "  case \"$command ${COMP_WORDS[COMP_CWORD-1]}\" in\n",
      values,
      "  esac\n"
      "  if [[ -n $arguments && $current != -* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$arguments\" -- \"$current\"))\n"
      "  elif [[ -n $files && $current != -* ]]; then\n"
      "    COMPREPLY=($(compgen -f -- \"$current\"))\n"
      "  else\n"
      "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  fi\n"
      "}\n"
      "complete -o filenames -F _turbofleet turbofleet\n");
}

// In single quotes of zsh's _arguments and fish, where few characters mean anything.
std::string Quoted(const std::string& help) {
  return absl::StrReplaceAll(help, {{"'", ""}, {"[", "("}, {"]", ")"}, {":", ","}, {"\n", " "}, {"\\", ""}});
}

// The options of a command, as zsh's _arguments takes them.
std::string ZshOptions(const CLI::App& app) {
  std::string options;
  for (const Word& word : OptionsOf(app)) {
    const std::string value = word.values.empty() ? ":value:_files" : absl::StrCat(":value:(", word.values, ")");
    absl::StrAppend(&options, "        '", word.text, "[", Quoted(word.help), "]", word.takes_value ? value : "",
                    "' \\\n");
  }
  return options;
}

// The names at `position` of the command line, and what follows each of them.
std::string ZshCases(const CLI::App& root, const CLI::App& app, int position) {
  std::string commands, cases;
  for (const CLI::App* command : CommandsOf(app)) {
    absl::StrAppend(&commands, "    '", command->get_name(), ":", Quoted(command->get_description()), "'\n");
    absl::StrAppend(&cases, "    ", command->get_name(), ")\n");
    if (!CommandsOf(*command).empty()) {
      absl::StrAppend(&cases, ZshCases(root, *command, position + 1), "      ;;\n");
      continue;
    }
    const std::string arguments = ArgumentValuesOf(*command);
    absl::StrAppend(&cases, "      _arguments \\\n", ZshOptions(*command), ZshOptions(root),
                    "        '*:argument:", arguments.empty() ? "_files" : absl::StrCat("(", arguments, ")"),
                    "'\n      ;;\n");
  }
  return absl::StrCat("  commands=(\n", commands,
                      "  )\n"
                      "  if (( CURRENT == ",
                      position,
                      " )); then\n"
                      "    _describe command commands\n"
                      "    return\n"
                      "  fi\n"
                      "  case $words[",
                      position, "] in\n", cases, "  esac\n");
}

std::string ZshScript(const CLI::App& root) {
  return absl::StrCat(
      "#compdef turbofleet\n"
      "_turbofleet() {\n"
      "  local -a commands\n",
      ZshCases(root, root, 2),
      "}\n"
      "compdef _turbofleet turbofleet\n");
}

std::string FishScript(const CLI::App& root) {
  std::string script;
  const auto add = [&script](const std::string& condition, const CLI::App& app) {
    for (const Word& word : OptionsOf(app)) {
      const bool is_long = word.text.size() > 2;
      absl::StrAppend(&script, "complete -c turbofleet", condition, is_long ? " -l " : " -s ",
                      word.text.substr(is_long ? 2 : 1), word.takes_value ? " -r" : "",
                      word.values.empty() ? "" : absl::StrCat(" -f -a '", word.values, "'"), " -d '", Quoted(word.help),
                      "'\n");
    }
  };
  add("", root);
  for (const auto& [path, command] : AllCommands(root)) {
    const size_t slash = path.find('/');
    std::string here = "__fish_use_subcommand";
    std::string seen = absl::StrCat("__fish_seen_subcommand_from ", command->get_name());
    if (slash != std::string::npos) {
      const std::string parent = absl::StrCat("__fish_seen_subcommand_from ", path.substr(0, slash));
      const std::string siblings = CommandNames(*command->get_parent());
      here = absl::StrCat("'", parent, "; and not __fish_seen_subcommand_from ", siblings, "'");
      seen = absl::StrCat(parent, "; and ", seen);
    }
    absl::StrAppend(&script, "complete -c turbofleet -n ", here, " -a ", command->get_name(), " -d '",
                    Quoted(command->get_description()), "'\n");
    const std::string condition = absl::StrCat(" -n '", seen, "'");
    add(condition, *command);
    if (const std::string arguments = ArgumentValuesOf(*command); !arguments.empty()) {
      absl::StrAppend(&script, "complete -c turbofleet", condition, " -f -a '", arguments, "'\n");
    }
  }
  return script;
}

}  // namespace

void AddCompletionCommand(CLI::App* app, Commands* commands) {
  CLI::App* command = app->add_subcommand("completion", "Print a completion script for a shell");
  command->footer(
      "\nExamples:\n"
      "  turbofleet completion bash > ~/.local/share/bash-completion/completions/turbofleet\n"
      "  turbofleet completion zsh > ~/.zfunc/_turbofleet\n"
      "  turbofleet completion fish > ~/.config/fish/completions/turbofleet.fish");
  const auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  (*commands)[command] = [app, shell](std::stop_token) {
    const std::string script = *shell == "bash"  ? BashScript(*app)
                               : *shell == "zsh" ? ZshScript(*app)
                                                 : FishScript(*app);
    return std::fputs(script.c_str(), stdout) < 0 ? kExitFailed : kExitOk;
  };
}

}  // namespace turbofleet::cli
