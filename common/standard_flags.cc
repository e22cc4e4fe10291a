#include "common/standard_flags.h"

#include <string>

namespace turbofleet {

void AddTlsFlags(CLI::App& app, TlsRole role, TlsOptions* options) {
  const bool listener = role == TlsRole::kListener;
  app.add_option("--tls-cert", options->certificate,
                 listener ? "PEM file with this server's certificate chain"
                          : "PEM file with this program's certificate chain, for mutual TLS")
      ->type_name("FILE")
      ->group("Transport security");
  app.add_option("--tls-key", options->key, "PEM file with the private key of --tls-cert")
      ->type_name("FILE")
      ->group("Transport security");
  app.add_option("--tls-ca", options->authority,
                 listener ? "PEM bundle that client certificates are checked with; clients without one are refused"
                          : "PEM bundle that the server's certificate is checked with")
      ->type_name("FILE")
      ->group("Transport security");
  app.add_flag("--insecure", options->insecure,
               listener ? "Listen in plain text although other machines can reach the address"
                        : "Talk in plain text although the server is another machine")
      ->group("Transport security");
}

void AddLogFlags(CLI::App& app, LogOptions* options) {
  app.add_option_function<std::string>(
         "--log-level", [options](const std::string& text) { options->level = *ParseLogLevel(text); },
         "Least important records to write: debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->type_name("LEVEL")
      ->default_str("info")
      ->group("Logging");
  app.add_option_function<std::string>(
         "--log-format", [options](const std::string& text) { options->format = *ParseLogFormat(text); },
         "text for people, json for machines")
      ->check(CLI::IsMember({"text", "json"}))
      ->type_name("FORMAT")
      ->default_str("text")
      ->group("Logging");
}

std::unique_ptr<Logger> MakeLogger(const LogOptions& options) {
  return MakeStderrLogger(options.level, options.format);
}

}  // namespace turbofleet
