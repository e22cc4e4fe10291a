#include "common/log.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/sha256.h"
#include "common/text.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace turbofleet {
namespace {

std::string FormatDouble(double value) {
  char text[64];
  const std::to_chars_result end = std::to_chars(std::begin(text), std::end(text), value);
  return std::string(std::begin(text), end.ptr);
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string TimeText() { return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()); }

// Whether a value stands unquoted in a text record without doubt about where it ends.
bool IsPlainWord(std::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    const bool word = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (!word && std::string_view("-_./:+@,%").find(c) == std::string_view::npos) return false;
  }
  return true;
}

std::string TextRecord(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  std::string line = absl::StrCat(TimeText(), " ", LevelName(level), " ");
  // An event is a constant of the code, yet nothing here depends on that.
  const std::string quoted_event = JsonQuote(event);
  line.append(quoted_event, 1, quoted_event.size() - 2);
  for (const LogField& field : fields) {
    const bool bare = field.kind != LogField::Kind::kString || IsPlainWord(field.value);
    absl::StrAppend(&line, " ", std::string(field.key), "=", bare ? field.value : JsonQuote(field.value));
  }
  return line;
}

std::string JsonRecord(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  std::string line =
      absl::StrCat("{\"time\":\"", TimeText(), "\",\"level\":\"", LevelName(level), "\",\"event\":", JsonQuote(event));
  for (const LogField& field : fields) {
    absl::StrAppend(&line, ",", JsonQuote(field.key), ":",
                    field.kind == LogField::Kind::kString ? JsonQuote(field.value) : field.value);
  }
  line.push_back('}');
  return line;
}

class StderrLogger : public Logger {
 public:
  StderrLogger(LogLevel level, LogFormat format)
      : format_(format), logger_("turbofleet", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger_.set_pattern("%v");
    logger_.set_level(SpdlogLevel(level));
    logger_.flush_on(spdlog::level::trace);
  }

  void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) override {
    const spdlog::level::level_enum spdlog_level = SpdlogLevel(level);
    if (!logger_.should_log(spdlog_level)) return;
    const std::string line =
        format_ == LogFormat::kJson ? JsonRecord(level, event, fields) : TextRecord(level, event, fields);
    // Through an argument, so that braces in the line are never taken for a format.
    logger_.log(spdlog_level, "{}", line);
  }

 private:
  const LogFormat format_;
  spdlog::logger logger_;
};

class NullLogger : public Logger {
 public:
  void Log(LogLevel, std::string_view, std::initializer_list<LogField>) override {}
};

}  // namespace

LogField::LogField(std::string_view key, std::string_view value) : key(key), value(value), kind(Kind::kString) {}

LogField::LogField(std::string_view key, bool value)
    : key(key), value(value ? "true" : "false"), kind(Kind::kBoolean) {}

// JSON has no infinities; they become strings.
LogField::LogField(std::string_view key, double value)
    : key(key), value(FormatDouble(value)), kind(std::isfinite(value) ? Kind::kNumber : Kind::kString) {}

LogField::LogField(std::string_view key, int64_t value) : key(key), value(absl::StrCat(value)), kind(Kind::kNumber) {}

LogField::LogField(std::string_view key, uint64_t value) : key(key), value(absl::StrCat(value)), kind(Kind::kNumber) {}

absl::StatusOr<LogLevel> ParseLogLevel(const std::string& text) {
  for (const LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (text == LevelName(level)) return level;
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is no log level; use debug, info, warning or error"));
}

absl::StatusOr<LogFormat> ParseLogFormat(const std::string& text) {
  if (text == "text") return LogFormat::kText;
  if (text == "json") return LogFormat::kJson;
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is no log format; use text or json"));
}

std::unique_ptr<Logger> MakeStderrLogger(LogLevel level, LogFormat format) {
  return std::make_unique<StderrLogger>(level, format);
}

std::unique_ptr<Logger> MakeNullLogger() { return std::make_unique<NullLogger>(); }

std::string PromptFingerprint(std::string_view prompt) {
  return absl::StrCat(Sha256Hex(prompt.data(), prompt.size()).substr(0, 8), "/", prompt.size());
}

}  // namespace turbofleet
