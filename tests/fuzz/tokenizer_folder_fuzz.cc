// Tokenizer folders from anyone: refused, or a tokenizer that works. The first byte says which file the rest replaces.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/fuzz/require.h"
#include "worker/engine/tokenizer/clip_tokenizer.h"

namespace {

struct File {
  const char* name;
  const char* content;
};
constexpr File kFiles[] = {
    {"vocab.json", R"({"!":0,"c":1,"a":2,"t</w>":3,"ca":4,"cat</w>":5,"<|startoftext|>":6,"<|endoftext|>":7})"},
    {"merges.txt", "#version: 0.2\nc a\nca t</w>\n"},
    {"tokenizer_config.json", R"({"model_max_length":8,"pad_token":"!"})"},
    {"special_tokens_map.json", R"({"bos_token":{"content":"<|startoftext|>","normalized":true},"pad_token":"!"})"}};

// A folder on disk, for as long as the program runs.
class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "tokenizer_fuzz_XXXXXX").string()) {
    TURBOFLEET_REQUIRE(mkdtemp(path_.data()) != nullptr);
    for (const File& file : kFiles) Write(file.name, file.content);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const Folder folder;
  const File& file = kFiles[data[0] % std::size(kFiles)];
  folder.Write(file.name, std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  const auto tokenizer = turbofleet::ClipTokenizer::Load(folder.path());
  folder.Write(file.name, file.content);
  if (!tokenizer.ok()) {
    TURBOFLEET_REQUIRE(absl::IsInvalidArgument(tokenizer.status()));
    TURBOFLEET_REQUIRE(tokenizer.status().message().find(folder.path()) != std::string::npos);
    return 0;
  }
  const auto tokens = tokenizer->Encode("A cat! <|endoftext|> caca\u0301t <|startoftext|>");
  TURBOFLEET_REQUIRE(tokens.ok());
  TURBOFLEET_REQUIRE(static_cast<int>(tokens->ids.size()) == tokenizer->length());
  return 0;
}
