#include "common/text.h"

#include "gtest/gtest.h"

namespace turbofleet {
namespace {

TEST(TextTest, KnowsWellFormedUtf8) {
  for (const std::string text : {"", "plain", "caf\xC3\xA9", "\xE6\x97\xA5", "\xF0\x9F\x8C\x88", "\xED\x9F\xBF",
                                 "\xEE\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(text)) << text;
  }
}

// Overlong forms, surrogates, cut sequences and stray bytes have all been used to smuggle characters past checks.
TEST(TextTest, RefusesMalformedUtf8) {
  for (const std::string text :
       {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xE6\x97", "a\xE6\x97 b"}) {
    EXPECT_FALSE(IsValidUtf8(text));
    EXPECT_TRUE(IsValidUtf8(ReplaceInvalidUtf8(text)));
  }
  EXPECT_EQ(ReplaceInvalidUtf8("a\xFF\xC3\xA9"), "a\xEF\xBF\xBD\xC3\xA9");
}

TEST(TextTest, TruncationCutsNoCharacter) {
  EXPECT_EQ(TruncateUtf8("caf\xC3\xA9", 5), "caf\xC3\xA9");
  EXPECT_EQ(TruncateUtf8("caf\xC3\xA9", 4), "caf...");
  EXPECT_EQ(TruncateUtf8("\xF0\x9F\x8C\x88", 3), "...");
  EXPECT_EQ(TruncateUtf8("abc", 0), "...");
}

TEST(TextTest, JsonQuotesEverythingThatCouldEndAStringOrDriveATerminal) {
  EXPECT_EQ(JsonQuote("a\"b\\c"), "\"a\\\"b\\\\c\"");
  EXPECT_EQ(JsonQuote("a\nb\rc\x1B[2J\x7F"), "\"a\\nb\\u000dc\\u001b[2J\\u007f\"");
  EXPECT_EQ(JsonQuote(std::string("\0", 1)), "\"\\u0000\"");
  EXPECT_EQ(JsonQuote("\xC2\x9B"), "\"\\u009b\"");
  EXPECT_EQ(JsonQuote("\xC2\xA0\xC3\xA9"), "\"\xC2\xA0\xC3\xA9\"");
  EXPECT_EQ(JsonQuote("\xFF"), "\"\xEF\xBF\xBD\"");
}

}  // namespace
}  // namespace turbofleet
