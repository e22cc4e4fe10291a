#include "worker/engine/tokenizer/clip_tokenizer.h"

#include <zlib.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kGoldens[] = TURBOFLEET_SOURCE_DIR "/tests/golden/clip_tokenizer/";

// A tokenizer folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = ::testing::TempDir() + "tokenizerXXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  absl::StatusOr<ClipTokenizer> Load() const { return ClipTokenizer::Load(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string Unzip(const std::string& path) {
  const gzFile file = gzopen(path.c_str(), "rb");
  std::string text;
  std::array<char, 65536> buffer;
  for (int count; (count = gzread(file, buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), count);
  gzclose(file);
  return text;
}

std::string Utf8(int code) {
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

// The vocabulary as CLIP numbers it: bytes, bytes at a word's end, merges, markers.
json VocabularyOf(const std::string& merges) {
  std::vector<std::string> bytes;
  std::vector<std::string> hidden;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (prints)
      bytes.push_back(Utf8(byte));
    else
      hidden.push_back(Utf8(256 + static_cast<int>(hidden.size())));
  }
  bytes.insert(bytes.end(), hidden.begin(), hidden.end());
  json vocabulary = json::object();
  const auto add = [&](const std::string& token) { vocabulary[token] = vocabulary.size(); };
  for (const std::string& byte : bytes) add(byte);
  for (const std::string& byte : bytes) add(byte + "</w>");
  std::istringstream lines(merges);
  for (std::string line; std::getline(lines, line);) {
    if (line[0] != '#' || line.substr(0, 8) != "#version") add(line.erase(line.find(' '), 1));
  }
  add("<|startoftext|>");
  add("<|endoftext|>");
  return vocabulary;
}

constexpr char kSmallMerges[] = "#version: 0.2\nc a\nca t</w>\n";
constexpr char kSmallConfig[] = R"({"model_max_length":6,"pad_token":"!"})";

void WriteSmall(const Folder& folder) {
  folder.Write("vocab.json", VocabularyOf(kSmallMerges).dump());
  folder.Write("merges.txt", kSmallMerges);
  folder.Write("tokenizer_config.json", kSmallConfig);
  folder.Write("special_tokens_map.json", "{}");
}
constexpr int64_t kCa = 512, kCat = 513, kBegin = 514, kEnd = 515;

// The promise to users of the reference: the same prompt gives the same ids, in folders of every age.
TEST(ClipTokenizerTest, IdsAreThoseOfTheReference) {
  const std::string merges = Unzip(std::string(kGoldens) + "merges.txt.gz");
  const json vocabulary = VocabularyOf(merges);
  ASSERT_EQ(vocabulary.size(), 49408u);
  const json goldens = json::parse(std::ifstream(std::string(kGoldens) + "goldens.json"));
  const auto& prompts = goldens["prompts"];
  ASSERT_GE(prompts.size(), 2000u);
  ASSERT_EQ(goldens["styles"].size(), 4u);
  const json& first_rows = goldens["styles"][0]["rows"];
  Folder folder;
  folder.Write("vocab.json", vocabulary.dump());
  folder.Write("merges.txt", merges);
  for (const json& style : goldens["styles"]) {
    folder.Write("tokenizer_config.json", style["config"].dump());
    folder.Write("special_tokens_map.json", style["special_tokens_map"].dump());
    const auto tokenizer = folder.Load();
    TURBOFLEET_ASSERT_OK(tokenizer);
    EXPECT_EQ(tokenizer->length(), 77);
    int failures = 0;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const std::string key = std::to_string(i);
      const std::vector<int64_t> row = style["rows"].value(key, first_rows[key]);
      std::vector<int64_t> expected = {49406};
      expected.insert(expected.end(), row.begin() + 1, row.end());
      expected.push_back(49407);
      expected.resize(77, style["padding"].get<int64_t>());
      const auto tokens = tokenizer->Encode(prompts[i].get<std::string>());
      TURBOFLEET_ASSERT_OK(tokens);
      if (tokens->ids == expected && tokens->tokens_cut == row[0]) continue;
      ADD_FAILURE() << style["name"] << ", prompt " << i << ": " << prompts[i] << "\n"
                    << ::testing::PrintToString(tokens->ids) << " for\n"
                    << ::testing::PrintToString(expected) << ", cut " << tokens->tokens_cut << " for " << row[0];
      if (++failures == 5) break;
    }
  }
}

TEST(ClipTokenizerTest, WhatDoesNotFitIsCutAndCounted) {
  const Folder folder;
  WriteSmall(folder);
  const auto tokenizer = folder.Load();
  TURBOFLEET_ASSERT_OK(tokenizer);
  const auto fits = tokenizer->Encode("cat cat CAT ca!").value();
  EXPECT_THAT(fits.ids, ElementsAre(kBegin, kCat, kCat, kCat, testing::_, kEnd));
  EXPECT_EQ(fits.tokens_cut, 2);  // Of "c", "a</w>" and "!", the first fits.
  const auto padded = tokenizer->Encode("cat").value();
  EXPECT_THAT(padded.ids, ElementsAre(kBegin, kCat, kEnd, 0, 0, 0));
  EXPECT_EQ(padded.tokens_cut, 0);
  EXPECT_THAT(tokenizer->Encode("cats").value().ids[1], kCa);
}

TEST(ClipTokenizerTest, InvalidUtf8IsRefused) {
  const Folder folder;
  WriteSmall(folder);
  const auto tokenizer = folder.Load();
  TURBOFLEET_ASSERT_OK(tokenizer);
  for (const char* prompt : {"\xff", "a\x80", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    EXPECT_THAT(tokenizer->Encode(prompt), StatusIs(kInvalid, HasSubstr("UTF-8")));
  }
  TURBOFLEET_EXPECT_OK(tokenizer->Encode(std::string("a\0b", 3)));
  EXPECT_THAT(tokenizer->Encode(std::string((4 << 20) + 1, 'a')), StatusIs(kInvalid, HasSubstr("longer")));
}

// Quadratic work anywhere would take minutes here: in merging, in ordering marks, in cutting text up.
TEST(ClipTokenizerTest, LongPromptsTakeLinearTime) {
  const Folder folder;
  WriteSmall(folder);
  const auto tokenizer = folder.Load();
  TURBOFLEET_ASSERT_OK(tokenizer);
  constexpr int kRepeats = 1 << 18;
  for (const char* unit : {"ca", "!", "\u0301\u0316", "<|", "'s", "\u00e9", "7", " ", "<|endoftext|"}) {
    std::string prompt;
    for (int i = 0; i < kRepeats; ++i) prompt += unit;
    TURBOFLEET_EXPECT_OK(tokenizer->Encode(prompt)) << unit;
  }
  std::string word;
  for (int i = 0; i < kRepeats; ++i) word += "ca";
  EXPECT_EQ(tokenizer->Encode(word).value().tokens_cut, kRepeats + 1 - 4);  // The last letters are "c" and "a</w>".
}

TEST(ClipTokenizerTest, TheLegacyMapMayBeMissing) {
  const Folder folder;
  WriteSmall(folder);
  std::filesystem::remove(folder.path() + "/special_tokens_map.json");
  TURBOFLEET_EXPECT_OK(folder.Load());
}

struct Hostile {
  const char* file;
  std::string text;
  const char* message;
};

TEST(ClipTokenizerTest, HostileFoldersAreRefusedByFile) {
  const std::vector<Hostile> cases = {
      {"vocab.json", "", "vocab.json"},
      {"vocab.json", "[]", "not an object"},
      {"vocab.json", "{}", "is not in vocab.json"},
      {"vocab.json", R"({"a":0,"a":0})", "there twice"},
      {"vocab.json", R"({"a":"0"})", "no whole number"},
      {"vocab.json", R"({"a":-1})", "no whole number"},
      {"vocab.json", R"({"a":0.0})", "no whole number"},
      {"vocab.json", R"({"a":1})", "gap"},
      {"vocab.json", R"({"a":18446744073709551615})", "gap"},
      {"vocab.json", R"({"a":0,"b":0})", "given twice"},
      {"vocab.json", std::string((16 << 20) + 1, ' '), "larger than"},
      {"merges.txt", "c\n", "is not a pair"},
      {"merges.txt", "c a t\n", "is not a pair"},
      {"merges.txt", " c\n", "is not a pair"},
      {"merges.txt", "c \n", "is not a pair"},
      {"merges.txt", "c a\nc a\n", "line 2: 'c a' is there twice"},
      {"merges.txt", "cat dog\n", "not in the vocabulary"},
      {"merges.txt", "c t\n", "not in the vocabulary"},
      {"merges.txt", std::string((16 << 20) + 1, ' '), "larger than"},
      {"tokenizer_config.json", "[]", "not an object"},
      {"tokenizer_config.json", "{}", "model_max_length"},
      {"tokenizer_config.json", R"({"model_max_length":"77"})", "model_max_length"},
      {"tokenizer_config.json", R"({"model_max_length":1})", "model_max_length"},
      {"tokenizer_config.json", R"({"model_max_length":1000000000000000019884624838656})", "model_max_length"},
      {"tokenizer_config.json", R"({"model_max_length":6,"padding_side":"left"})", "padding_side"},
      {"tokenizer_config.json", R"({"model_max_length":6,"pad_token":"dog"})", "pad_token: 'dog'"},
      {"tokenizer_config.json", R"({"model_max_length":6,"pad_token":7})", "pad_token"},
      {"tokenizer_config.json", R"({"model_max_length":6,"pad_token":{"content":"!","lstrip":true}})", "lstrip"},
      {"tokenizer_config.json", R"({"model_max_length":6,"pad_token":{"content":"!","normalized":1}})", "normalized"},
      {"tokenizer_config.json", R"({"model_max_length":6,"added_tokens_decoder":[]})", "added_tokens_decoder"},
      {"tokenizer_config.json", R"({"model_max_length":6,"added_tokens_decoder":{"1":{"content":"!"}}})", "of that id"},
      {"tokenizer_config.json", R"({"model_max_length":6,"added_tokens_decoder":{"0":{"content":""}}})", "of that id"},
      {"tokenizer_config.json", R"({"model_max_length":6,"added_tokens_decoder":{"0":"!"}})", "added_tokens_decoder"},
      {"special_tokens_map.json", "7", "special_tokens_map.json"},
      {"special_tokens_map.json", R"({"eos_token":""})", "eos_token"},
  };
  for (const Hostile& hostile : cases) {
    const Folder folder;
    WriteSmall(folder);
    TURBOFLEET_ASSERT_OK(folder.Load());
    folder.Write(hostile.file, hostile.text);
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr(hostile.message)))
        << hostile.file << ": " << hostile.text.substr(0, 100);
  }
  for (const char* file : {"vocab.json", "merges.txt", "tokenizer_config.json"}) {
    const Folder folder;
    WriteSmall(folder);
    std::filesystem::remove(folder.path() + "/" + file);
    EXPECT_THAT(folder.Load(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(file)));
  }
}

}  // namespace
}  // namespace turbofleet
