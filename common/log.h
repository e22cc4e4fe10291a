// Structured logs. A record is an event in a few words, and fields. Prompts and secrets are never fields: log
// PromptFingerprint instead.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace turbofleet {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// One field; the value is written as a JSON string, number or boolean.
struct LogField {
  enum class Kind { kString, kNumber, kBoolean };

  LogField(std::string_view key, std::string_view value);
  LogField(std::string_view key, const std::string& value) : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, const char* value) : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, bool value);
  LogField(std::string_view key, double value);
  LogField(std::string_view key, int value) : LogField(key, static_cast<int64_t>(value)) {}
  LogField(std::string_view key, int64_t value);
  LogField(std::string_view key, uint64_t value);

  std::string_view key;
  std::string value;
  Kind kind;
};

// Thread-safe.
class Logger {
 public:
  virtual ~Logger() = default;
  virtual void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) = 0;

  void Info(std::string_view event, std::initializer_list<LogField> fields = {}) {
    Log(LogLevel::kInfo, event, fields);
  }
  void Warning(std::string_view event, std::initializer_list<LogField> fields = {}) {
    Log(LogLevel::kWarning, event, fields);
  }
  void Error(std::string_view event, std::initializer_list<LogField> fields = {}) {
    Log(LogLevel::kError, event, fields);
  }
  void Debug(std::string_view event, std::initializer_list<LogField> fields = {}) {
    Log(LogLevel::kDebug, event, fields);
  }
};

enum class LogFormat { kText, kJson };

// "debug", "info", "warning", "error"; "text", "json". INVALID_ARGUMENT names the value.
absl::StatusOr<LogLevel> ParseLogLevel(const std::string& text);
absl::StatusOr<LogFormat> ParseLogFormat(const std::string& text);

// Writes records of `level` and above to standard error, one line each, with the time in UTC. Control characters in
// values are escaped, so a value can never forge a record.
std::unique_ptr<Logger> MakeStderrLogger(LogLevel level, LogFormat format);

// Drops everything.
std::unique_ptr<Logger> MakeNullLogger();

// Eight hex digits of the prompt's SHA-256 and its length in bytes, such as "3f9a01bc/42".
std::string PromptFingerprint(std::string_view prompt);

}  // namespace turbofleet
