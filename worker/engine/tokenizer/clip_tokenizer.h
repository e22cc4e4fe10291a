// The byte-level BPE tokenizer of CLIP, with the ids of the reference implementation (transformers' CLIPTokenizer).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet {

// Immutable after Load, thread-safe.
class ClipTokenizer {
 public:
  struct Tokens {
    std::vector<int64_t> ids;  // Exactly length() of them: begin, prompt, end, padding.
    int tokens_cut = 0;        // Tokens of the prompt that did not fit.
  };

  // Loads `vocab.json`, `merges.txt`, `tokenizer_config.json` and, where it is there, `special_tokens_map.json` of a
  // tokenizer folder.
  // NOT_FOUND or INVALID_ARGUMENT with the file's name. Files are limited in size, and hostile ones get an error.
  static absl::StatusOr<ClipTokenizer> Load(const std::string& folder);

  ClipTokenizer(ClipTokenizer&&) noexcept;
  ClipTokenizer& operator=(ClipTokenizer&&) noexcept;
  ~ClipTokenizer();

  // INVALID_ARGUMENT: `prompt` is not valid UTF-8, or longer than 4 MiB. Takes O(n log n) for n bytes of any kind.
  absl::StatusOr<Tokens> Encode(std::string_view prompt) const;

  // The number of ids that Encode returns: `model_max_length`, 77 for CLIP.
  int length() const;

 private:
  struct State;
  explicit ClipTokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace turbofleet
