#include "common/log.h"

#include <limits>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

// What a logger of that level and format writes when `write` uses it.
template <typename Write>
std::string Written(LogLevel level, LogFormat format, const Write& write) {
  CaptureStderr();
  const std::unique_ptr<Logger> logger = MakeStderrLogger(level, format);
  write(*logger);
  return GetCapturedStderr();
}

int LinesIn(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

// Whoever controls a value controls the log's reader, unless nothing in it can end a line or a string.
TEST(LogTest, AValueCanNeverForgeARecord) {
  const std::string evil = "x\n2026-01-01T00:00:00.000Z info forged \"job\":\"1\"\r\x1B[2J\x80 {} %s";
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    const std::string text =
        Written(LogLevel::kInfo, format, [&](Logger& logger) { logger.Info("received", {{"name", evil}}); });
    EXPECT_EQ(LinesIn(text), 1) << text;
    EXPECT_EQ(text.find('\x1B'), std::string::npos);
    EXPECT_EQ(text.find('\r'), std::string::npos);
    EXPECT_EQ(text.find('\x80'), std::string::npos);
  }
}

TEST(LogTest, EveryJsonRecordParsesAndKeepsTypes) {
  const std::string text = Written(LogLevel::kDebug, LogFormat::kJson, [](Logger& logger) {
    logger.Warning("image failed", {{"job", "jobs/\"7\"\n\xFF"},
                                    {"index", 3},
                                    {"bytes", std::numeric_limits<uint64_t>::max()},
                                    {"least", std::numeric_limits<int64_t>::min()},
                                    {"seconds", 0.25},
                                    {"ratio", std::numeric_limits<double>::quiet_NaN()},
                                    {"final", true}});
  });
  const nlohmann::json record = nlohmann::json::parse(text);
  EXPECT_EQ(record["level"], "warning");
  EXPECT_EQ(record["event"], "image failed");
  EXPECT_EQ(record["job"], "jobs/\"7\"\n\xEF\xBF\xBD");
  EXPECT_EQ(record["index"], 3);
  EXPECT_EQ(record["bytes"], std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(record["least"], std::numeric_limits<int64_t>::min());
  EXPECT_EQ(record["seconds"], 0.25);
  EXPECT_EQ(record["ratio"], "nan");
  EXPECT_EQ(record["final"], true);
  EXPECT_THAT(record["time"].get<std::string>(),
              ::testing::MatchesRegex("20[0-9-]{8}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"));
}

TEST(LogTest, TextQuotesOnlyWhatNeedsIt) {
  const std::string text = Written(LogLevel::kInfo, LogFormat::kText, [](Logger& logger) {
    logger.Info("worker joined", {{"worker", "gpu-7"}, {"model", "two words"}, {"slots", 2}, {"note", ""}});
  });
  EXPECT_THAT(text, HasSubstr(" info worker joined worker=gpu-7 model=\"two words\" slots=2 note=\"\"\n"));
}

TEST(LogTest, LowerLevelsAreDropped) {
  const std::string text = Written(LogLevel::kWarning, LogFormat::kText, [](Logger& logger) {
    logger.Debug("one");
    logger.Info("two");
    logger.Warning("three");
    logger.Error("four");
  });
  EXPECT_EQ(LinesIn(text), 2) << text;
  EXPECT_THAT(text, ::testing::AllOf(HasSubstr("warning three"), HasSubstr("error four")));
}

TEST(LogTest, NamesOfLevelsAndFormatsAreParsed) {
  EXPECT_THAT(ParseLogLevel("debug"), IsOkAndHolds(LogLevel::kDebug));
  EXPECT_THAT(ParseLogLevel("info"), IsOkAndHolds(LogLevel::kInfo));
  EXPECT_THAT(ParseLogLevel("warning"), IsOkAndHolds(LogLevel::kWarning));
  EXPECT_THAT(ParseLogLevel("error"), IsOkAndHolds(LogLevel::kError));
  EXPECT_THAT(ParseLogLevel("INFO"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("INFO")));
  EXPECT_THAT(ParseLogFormat("text"), IsOkAndHolds(LogFormat::kText));
  EXPECT_THAT(ParseLogFormat("json"), IsOkAndHolds(LogFormat::kJson));
  EXPECT_THAT(ParseLogFormat("xml"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("xml")));
}

// Enough to find a prompt that one has, nothing to read one that one has not.
TEST(LogTest, PromptsAreOnlyFingerprinted) {
  EXPECT_EQ(PromptFingerprint("abc"), "ba7816bf/3");
  EXPECT_EQ(PromptFingerprint(""), "e3b0c442/0");
}

}  // namespace
}  // namespace turbofleet
