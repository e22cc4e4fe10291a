// Byte-pair encoding over a vocabulary of byte-level tokens with the word end "</w>".
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet {

// Immutable after Make, thread-safe.
class BytePairs {
 public:
  using Vocabulary = std::unordered_map<std::string, int64_t>;

  // `merges` is the text of merges.txt: after an optional line that begins with "#version", a pair of tokens on each
  // line, the first of which is merged first. INVALID_ARGUMENT: a line is no pair, a token or a merged token is not in
  // the vocabulary, or a pair is there twice. `unknown` stands for bytes that have no token.
  static absl::StatusOr<BytePairs> Make(const Vocabulary& vocabulary, std::string_view merges, int64_t unknown);

  // Appends the ids of one word. Takes O(n log n) for n bytes. REQUIRES: not empty.
  void Encode(std::string_view word, std::vector<int64_t>* ids) const;

 private:
  struct Merge {
    int64_t rank;
    int64_t id;
  };

  const Merge* Find(int64_t left, int64_t right) const;

  std::array<int64_t, 256> inner_;              // By byte, the id of its token,
  std::array<int64_t, 256> last_;               // and where it ends a word.
  std::unordered_map<uint64_t, Merge> merges_;  // By both ids, 32 bits each.
};

}  // namespace turbofleet
