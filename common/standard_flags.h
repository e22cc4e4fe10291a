// Flags that several programs share, declared once.
#pragma once

#include <memory>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "common/credentials.h"
#include "common/log.h"

namespace turbofleet {

// Which end of the connection a program's TLS flags speak of.
enum class TlsRole { kListener, kChannel };

// Adds --tls-cert, --tls-key, --tls-ca and --insecure, which fill `options`.
void AddTlsFlags(CLI::App& app, TlsRole role, TlsOptions* options);

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
};

// Adds --log-level and --log-format, which fill `options`.
void AddLogFlags(CLI::App& app, LogOptions* options);

// MakeStderrLogger with those options.
std::unique_ptr<Logger> MakeLogger(const LogOptions& options);

}  // namespace turbofleet
