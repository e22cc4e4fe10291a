// Prompts from anyone: valid UTF-8 becomes ids of the fixed length, as a slow and plain merge makes them; the rest is
// refused.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/text.h"
#include "tests/fuzz/require.h"
#include "worker/engine/json/strict_json.h"
#include "worker/engine/tokenizer/bpe.h"
#include "worker/engine/tokenizer/clip_tokenizer.h"

namespace {

using turbofleet::BytePairs;
using turbofleet::ClipTokenizer;

constexpr int64_t kUnknown = 0;

const std::string& Folder() {
  static const std::string folder = TURBOFLEET_SOURCE_DIR "/worker/demo_model/model/tokenizer";
  return folder;
}

const BytePairs::Vocabulary& Vocabulary() {
  static const auto vocabulary = turbofleet::ReadStrictJson(Folder() + "/vocab.json", {})->get<BytePairs::Vocabulary>();
  return vocabulary;
}

const std::string& Merges() {
  static const std::string merges = *turbofleet::ReadFileLimited(Folder() + "/merges.txt", 1 << 20);
  return merges;
}

void CheckPrompt(std::string_view prompt) {
  static const ClipTokenizer tokenizer = *ClipTokenizer::Load(Folder());
  const auto tokens = tokenizer.Encode(prompt);
  TURBOFLEET_REQUIRE(tokens.ok() == turbofleet::IsValidUtf8(prompt));
  if (!tokens.ok()) {
    TURBOFLEET_REQUIRE(absl::IsInvalidArgument(tokens.status()));
    return;
  }
  const std::vector<int64_t>& ids = tokens->ids;
  const auto vocabulary_size = static_cast<int64_t>(Vocabulary().size());
  TURBOFLEET_REQUIRE(static_cast<int>(ids.size()) == tokenizer.length() && tokens->tokens_cut >= 0);
  for (const int64_t id : ids) TURBOFLEET_REQUIRE(id >= 0 && id < vocabulary_size);
  const int64_t end = Vocabulary().at("<|endoftext|>");
  TURBOFLEET_REQUIRE(ids.front() == Vocabulary().at("<|startoftext|>"));
  TURBOFLEET_REQUIRE(std::count(ids.begin(), ids.end(), end) > 0);
  if (tokens->tokens_cut > 0) TURBOFLEET_REQUIRE(ids.back() == end);
  // Space around a prompt means nothing.
  const auto spaced = tokenizer.Encode(" \n" + std::string(prompt) + "\t ");
  TURBOFLEET_REQUIRE(spaced.ok() && spaced->ids == ids && spaced->tokens_cut == tokens->tokens_cut);
}

// Merges pair after pair, looking for the best one from the start each time.
std::vector<int64_t> PlainMerge(std::string_view word) {
  static const auto rules = [] {
    std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, int64_t>> made;  // Pair of ids to rank and id.
    std::string_view text = Merges();
    while (!text.empty()) {
      const std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(line.size() + 1, text.size()));
      if (line.empty() || line.substr(0, 8) == "#version") continue;
      const std::string left(line.substr(0, line.find(' '))), right(line.substr(line.find(' ') + 1));
      const int64_t rank = static_cast<int64_t>(made.size());
      made.emplace(std::pair(Vocabulary().at(left), Vocabulary().at(right)),
                   std::pair(rank, Vocabulary().at(left + right)));
    }
    return made;
  }();
  const BytePairs bytes_only = *BytePairs::Make(Vocabulary(), "", kUnknown);
  std::vector<int64_t> ids;
  bytes_only.Encode(word, &ids);
  while (true) {
    auto best = rules.end();
    size_t place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto rule = rules.find({ids[i], ids[i + 1]});
      if (rule == rules.end() || (best != rules.end() && rule->second >= best->second)) continue;
      best = rule;
      place = i;
    }
    if (best == rules.end()) return ids;
    ids[place] = best->second.second;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(place) + 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view prompt(reinterpret_cast<const char*>(data), size);
  CheckPrompt(prompt);
  const std::string_view word = prompt.substr(0, 200);
  if (word.empty()) return 0;
  static const BytePairs pairs = *BytePairs::Make(Vocabulary(), Merges(), kUnknown);
  std::vector<int64_t> ids;
  pairs.Encode(word, &ids);
  TURBOFLEET_REQUIRE(ids == PlainMerge(word));
  return 0;
}
