#include "worker/engine/tokenizer/bpe.h"

#include <queue>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine/json/strict_json.h"

namespace turbofleet {
namespace {

// The printable stand-in of a byte, as UTF-8: itself where Latin-1 prints it, else the next code point from U+0100.
std::array<std::string, 256> ByteCharacters() {
  std::array<std::string, 256> characters;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = prints ? byte : next++;
    if (code < 128) {
      characters[byte] = std::string(1, static_cast<char>(code));
    } else {
      characters[byte] = {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return characters;
}

uint64_t PairKey(int64_t left, int64_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

}  // namespace

absl::StatusOr<BytePairs> BytePairs::Make(const Vocabulary& vocabulary, std::string_view merges, int64_t unknown) {
  BytePairs pairs;
  const auto id_or_unknown = [&](const std::string& token) {
    const auto found = vocabulary.find(token);
    return found == vocabulary.end() ? unknown : found->second;
  };
  const std::array<std::string, 256> characters = ByteCharacters();
  for (int byte = 0; byte < 256; ++byte) {
    pairs.inner_[byte] = id_or_unknown(characters[byte]);
    pairs.last_[byte] = id_or_unknown(characters[byte] + "</w>");
  }
  int64_t line_number = 0;
  int64_t rank = 0;
  while (!merges.empty()) {
    const size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view line = merges.substr(0, end);
    merges.remove_prefix(std::min(end + 1, merges.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (++line_number == 1 && line.substr(0, 8) == "#version") continue;
    if (line.empty()) continue;
    const auto error = [&](const char* what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line_number, ": ", Quoted(line), " ", what));
    };
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos) {
      return error("is not a pair of tokens");
    }
    const std::string left(line.substr(0, space));
    const std::string right(line.substr(space + 1));
    const auto left_id = vocabulary.find(left);
    const auto right_id = vocabulary.find(right);
    const auto merged_id = vocabulary.find(left + right);
    if (left_id == vocabulary.end() || right_id == vocabulary.end() || merged_id == vocabulary.end()) {
      return error("refers to a token that is not in the vocabulary");
    }
    const Merge merge = {.rank = rank++, .id = merged_id->second};
    if (!pairs.merges_.emplace(PairKey(left_id->second, right_id->second), merge).second)
      return error("is there twice");
  }
  return pairs;
}

const BytePairs::Merge* BytePairs::Find(int64_t left, int64_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairs::Encode(std::string_view word, std::vector<int64_t>* ids) const {
  // A linked list of symbols, and a queue of the merges that neighbours allow: the earliest rule first, and of equal
  // rules the leftmost place. A merge leaves stale entries behind, which no longer fit their symbols.
  struct Symbol {
    int64_t id;
    int64_t previous;
    int64_t next;
    bool is_gone;
  };
  struct Candidate {
    int64_t rank, place, id;
    bool operator>(const Candidate& other) const { return std::tie(rank, place) > std::tie(other.rank, other.place); }
  };
  const auto size = static_cast<int64_t>(word.size());
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (int64_t i = 0; i < size; ++i) {
    const auto byte = static_cast<uint8_t>(word[i]);
    symbols.push_back({i + 1 == size ? last_[byte] : inner_[byte], i - 1, i + 1 == size ? -1 : i + 1, false});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> candidates;
  const auto consider = [&](int64_t place) {
    if (place < 0 || symbols[place].next < 0) return;
    if (const Merge* merge = Find(symbols[place].id, symbols[symbols[place].next].id); merge != nullptr) {
      candidates.push({merge->rank, place, merge->id});
    }
  };
  for (int64_t i = 0; i + 1 < size; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate candidate = candidates.top();
    candidates.pop();
    Symbol& left = symbols[candidate.place];
    if (left.is_gone || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* const merge = Find(left.id, right.id);
    if (merge == nullptr || merge->rank != candidate.rank) continue;
    left.id = candidate.id;
    left.next = right.next;
    right.is_gone = true;
    if (left.next >= 0) symbols[left.next].previous = candidate.place;
    consider(left.previous);
    consider(candidate.place);
  }
  for (int64_t i = 0; i >= 0; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace turbofleet
