#include "worker/engine/tokenizer/clip_tokenizer.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/engine/json/strict_json.h"
#include "worker/engine/tokenizer/bpe.h"

namespace turbofleet {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 16 << 20;
constexpr size_t kTokensMax = 1'000'000;
constexpr int64_t kLengthMax = 4096;
constexpr size_t kListedTokensMax = 64;
constexpr size_t kPromptBytesMax = 4 << 20;

// A token that is matched in the prompt before words are.
struct SpecialToken {
  std::string text;
  int64_t id;
};

absl::Status UnicodeFailure(UErrorCode code) {
  return absl::InternalError(absl::StrCat("Unicode tables: ", u_errorName(code)));
}

// NFC, then lower case code point by code point, as the reference does (so a final sigma is like any other).
class Normaliser {
 public:
  static absl::StatusOr<Normaliser> Make() {
    UErrorCode code = U_ZERO_ERROR;
    Normaliser normaliser;
    normaliser.nfc_ = icu::Normalizer2::getNFCInstance(code);
    if (U_FAILURE(code)) return UnicodeFailure(code);
    return normaliser;
  }

  // REQUIRES: valid UTF-8.
  absl::StatusOr<std::string> Apply(std::string_view text) const {
    icu::UnicodeString decomposed = Decompose(text);
    UErrorCode code = U_ZERO_ERROR;
    const icu::UnicodeString composed = nfc_->normalize(decomposed, code);
    if (U_FAILURE(code)) return UnicodeFailure(code);
    icu::UnicodeString lower;
    for (int32_t i = 0; i < composed.length(); i = composed.moveIndex32(i, 1)) {
      const UChar32 character = composed.char32At(i);
      // The one code point whose lower case is two.
      if (character == 0x130)
        lower.append(static_cast<UChar32>('i')).append(static_cast<UChar32>(0x307));
      else
        lower.append(u_tolower(character));
    }
    std::string result;
    lower.toUTF8String(result);
    return result;
  }

 private:
  // ICU orders a run of n combining marks in O(n^2); a prompt of nothing but marks would block a worker. In order
  // already, as they leave here, they cost it O(n).
  icu::UnicodeString Decompose(std::string_view text) const {
    // Order, then place: the standard's stable sort would do, but Clang warns of what it is made of.
    std::vector<std::tuple<uint8_t, size_t, UChar32>> marks;
    icu::UnicodeString result;
    const auto flush = [&] {
      std::sort(marks.begin(), marks.end());
      for (const auto& mark : marks) result.append(std::get<UChar32>(mark));
      marks.clear();
    };
    const icu::UnicodeString source = icu::UnicodeString::fromUTF8({text.data(), static_cast<int32_t>(text.size())});
    for (int32_t i = 0; i < source.length(); i = source.moveIndex32(i, 1)) {
      icu::UnicodeString parts;
      if (!nfc_->getDecomposition(source.char32At(i), parts)) parts = source.char32At(i);
      for (int32_t j = 0; j < parts.length(); j = parts.moveIndex32(j, 1)) {
        const UChar32 part = parts.char32At(j);
        const uint8_t order = nfc_->getCombiningClass(part);
        if (order == 0) flush();
        marks.emplace_back(order, marks.size(), part);
        if (order == 0) flush();
      }
    }
    flush();
    return result;
  }

  const icu::Normalizer2* nfc_ = nullptr;  // Owned by ICU.
};

bool IsValidUtf8(std::string_view text) {
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t i = 0; i < size;) {
    UChar32 character;
    U8_NEXT(text.data(), i, size, character);
    if (character < 0) return false;
  }
  return true;
}

enum class Kind { kSpace, kLetter, kNumber, kOther };

struct Character {
  Kind kind;
  size_t size;
};

// REQUIRES: valid UTF-8, `place` at the start of a character.
Character CharacterAt(std::string_view text, size_t place) {
  auto next = static_cast<int32_t>(place);
  UChar32 character;
  U8_NEXT_UNSAFE(text.data(), next, character);
  const uint32_t category = U_GET_GC_MASK(character);
  Kind kind = Kind::kOther;
  if (category & U_GC_L_MASK)
    kind = Kind::kLetter;
  else if (category & U_GC_N_MASK)
    kind = Kind::kNumber;
  else if (u_hasBinaryProperty(character, UCHAR_WHITE_SPACE))
    kind = Kind::kSpace;
  return {kind, static_cast<size_t>(next) - place};
}

bool StartsWith(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

// The bytes of the next word of `text`: an English contraction, a run of letters, a single number, or a run of
// anything else but space. The reference first takes "<|startoftext|>" and "<|endoftext|>" that are no special tokens
// (any more) whole, and then in three parts, which differs from doing neither when punctuation follows: `marker_left`
// carries that boundary from word to word. REQUIRES: no space at the front.
size_t WordSize(std::string_view text, size_t* marker_left) {
  if (*marker_left == 0) {
    for (const std::string_view marker : {"<|startoftext|>", "<|endoftext|>"}) {
      if (StartsWith(text, marker)) *marker_left = marker.size();
    }
  }
  if (*marker_left == 0) {
    for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
      if (StartsWith(text, contraction)) return contraction.size();
    }
  }
  const size_t end = *marker_left == 0 ? text.size() : *marker_left;
  const Character first = CharacterAt(text, 0);
  size_t size = first.size;
  while (first.kind != Kind::kNumber && size < end) {
    const Character next = CharacterAt(text, size);
    if (next.kind != first.kind) break;
    size += next.size;
  }
  *marker_left -= std::min(size, *marker_left);
  return size;
}

// A token of a config, which is text or an object with flags.
struct ConfiguredToken {
  std::string text;
  bool is_text = true;
  bool is_normalized = false;
};

absl::StatusOr<ConfiguredToken> ReadToken(const json& value, bool normalized_default) {
  if (value.is_string()) return ConfiguredToken{.text = value.get<std::string>()};
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    return absl::InvalidArgumentError("neither text nor an object with content");
  }
  ConfiguredToken token = {.text = value["content"].get<std::string>(), .is_text = false};
  token.is_normalized = normalized_default;
  for (const char* flag : {"lstrip", "rstrip", "single_word", "normalized"}) {
    if (!value.contains(flag)) continue;
    if (!value[flag].is_boolean()) return absl::InvalidArgumentError(absl::StrCat(flag, ": not true or false"));
    const bool is_set = value[flag].get<bool>();
    if (std::string_view(flag) == "normalized")
      token.is_normalized = is_set;
    else if (is_set)
      return absl::InvalidArgumentError(absl::StrCat(flag, ": not supported"));
  }
  return token;
}

}  // namespace

struct ClipTokenizer::State {
  BytePairs pairs;
  Normaliser normaliser;
  // Matched in the prompt as it is, and in the normalised prompt. Longest first.
  std::vector<SpecialToken> raw;
  std::vector<SpecialToken> normalized;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t padding = 0;
  int length = 0;

  // Calls `on_text` for what lies between special tokens.
  template <typename OnText>
  static absl::Status Split(std::string_view text, const std::vector<SpecialToken>& specials, std::vector<int64_t>* ids,
                            const OnText& on_text) {
    size_t text_begin = 0;
    for (size_t place = 0; place < text.size();) {
      const auto special = std::find_if(specials.begin(), specials.end(), [&](const SpecialToken& token) {
        return StartsWith(text.substr(place), token.text);
      });
      if (special == specials.end()) {
        ++place;
        continue;
      }
      if (place > text_begin) TURBOFLEET_RETURN_IF_ERROR(on_text(text.substr(text_begin, place - text_begin)));
      ids->push_back(special->id);
      place += special->text.size();
      text_begin = place;
    }
    if (text_begin < text.size()) return on_text(text.substr(text_begin));
    return absl::OkStatus();
  }

  absl::Status EncodeWords(std::string_view text, std::vector<int64_t>* ids) const {
    size_t marker_left = 0;
    while (!text.empty()) {
      const Character first = CharacterAt(text, 0);
      size_t size = first.size;
      if (first.kind != Kind::kSpace) {
        size = WordSize(text, &marker_left);
        pairs.Encode(text.substr(0, size), ids);
      }
      text.remove_prefix(size);
    }
    return absl::OkStatus();
  }
};

namespace {

absl::StatusOr<BytePairs::Vocabulary> ReadVocabulary(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(
      const json file,
      ReadStrictJson(path, {.bytes_max = kFileBytesMax, .depth_max = 2, .values_max = kTokensMax + 1}));
  const auto error = [&path](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!file.is_object()) return error("not an object");
  std::vector<bool> is_taken(file.size());
  BytePairs::Vocabulary vocabulary;
  for (const auto& [token, id] : file.items()) {
    if (!id.is_number_unsigned()) return error(absl::StrCat(Quoted(token), ": the id is no whole number"));
    const auto value = id.get<uint64_t>();
    if (value >= file.size()) return error(absl::StrCat(Quoted(token), ": ids leave a gap"));
    if (is_taken[value]) return error(absl::StrCat(Quoted(token), ": its id is given twice"));
    is_taken[value] = true;
    vocabulary.emplace(token, static_cast<int64_t>(value));
  }
  return vocabulary;
}

struct Specials {
  std::map<std::string, std::string> names;   // By role, such as "pad_token".
  std::map<std::string, bool> is_normalized;  // By text.
};

// The tokens that newer folders list by id.
absl::Status ReadListedTokens(const json& list, const BytePairs::Vocabulary& vocabulary, Specials* specials) {
  if (!list.is_object()) return absl::InvalidArgumentError("added_tokens_decoder: not an object");
  if (list.size() > kListedTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat("added_tokens_decoder: more than ", kListedTokensMax, " tokens"));
  }
  for (const auto& [id, value] : list.items()) {
    if (value.is_string()) return absl::InvalidArgumentError("added_tokens_decoder: not an object with content");
    const bool is_special = value.is_object() && value.contains("special") && value["special"] == true;
    absl::StatusOr<ConfiguredToken> token = ReadToken(value, !is_special);
    if (!token.ok()) return Annotate(token.status(), absl::StrCat("added_tokens_decoder ", Quoted(id)));
    const auto known = vocabulary.find(token->text);
    if (token->text.empty() || known == vocabulary.end() || absl::StrCat(known->second) != id) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens_decoder ", Quoted(id), ": not the token of that id in vocab.json"));
    }
    specials->is_normalized[token->text] = token->is_normalized;
  }
  return absl::OkStatus();
}

// Whether a special token is looked for before or after normalisation follows from how and where it is written. The
// reference adds each text once as an object and once as a bare text, in the order of the roles, and the last counts.
absl::StatusOr<Specials> ReadSpecials(const json& config, const json& legacy, const BytePairs::Vocabulary& vocabulary) {
  Specials specials;
  const bool has_list = config.contains("added_tokens_decoder");
  if (has_list) TURBOFLEET_RETURN_IF_ERROR(ReadListedTokens(config["added_tokens_decoder"], vocabulary, &specials));
  const std::map<std::string, bool> listed = specials.is_normalized;
  std::set<std::pair<std::string, bool>> added;
  for (const auto& [role, otherwise] :
       {std::pair("bos_token", "<|startoftext|>"), std::pair("eos_token", "<|endoftext|>"),
        std::pair("unk_token", "<|endoftext|>"), std::pair("pad_token", "<|endoftext|>")}) {
    json value = otherwise;
    if (config.contains(role)) value = config[role];
    if (!has_list && legacy.contains(role)) value = legacy[role];
    absl::StatusOr<ConfiguredToken> token = ReadToken(value, false);
    if (!token.ok()) return Annotate(token.status(), role);
    if (token->text.empty() || vocabulary.count(token->text) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(role, ": ", Quoted(token->text), " is not in vocab.json"));
    }
    specials.names[role] = token->text;
    if (listed.count(token->text) == 0 && added.emplace(token->text, token->is_text).second) {
      specials.is_normalized[token->text] = token->is_normalized;
    }
  }
  return specials;
}

absl::StatusOr<int> ReadLength(const json& config) {
  const auto value = config.find("model_max_length");
  if (value == config.end() || !value->is_number_unsigned() || value->get<uint64_t>() < 2 ||
      value->get<uint64_t>() > kLengthMax) {
    return absl::InvalidArgumentError(absl::StrCat("model_max_length: not a number from 2 to ", kLengthMax));
  }
  for (const char* side : {"padding_side", "truncation_side"}) {
    if (config.contains(side) && config[side] != "right") {
      return absl::InvalidArgumentError(absl::StrCat(side, ": only \"right\" is supported"));
    }
  }
  return value->get<int>();
}

absl::StatusOr<json> ReadObject(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(json value, ReadStrictJson(path, {}));
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": not an object"));
  return value;
}

}  // namespace

ClipTokenizer::ClipTokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
ClipTokenizer::ClipTokenizer(ClipTokenizer&&) noexcept = default;
ClipTokenizer& ClipTokenizer::operator=(ClipTokenizer&&) noexcept = default;
ClipTokenizer::~ClipTokenizer() = default;

absl::StatusOr<ClipTokenizer> ClipTokenizer::Load(const std::string& folder) {
  TURBOFLEET_ASSIGN_OR_RETURN(const BytePairs::Vocabulary vocabulary, ReadVocabulary(folder + "/vocab.json"));
  const std::string config_path = folder + "/tokenizer_config.json";
  TURBOFLEET_ASSIGN_OR_RETURN(const json config, ReadObject(config_path));
  absl::StatusOr<json> legacy = ReadObject(folder + "/special_tokens_map.json");
  // Newer folders have it all in the config.
  if (absl::IsNotFound(legacy.status())) legacy = json::object();
  if (!legacy.ok()) return legacy.status();

  auto state = std::make_unique<State>();
  const absl::StatusOr<int> length = ReadLength(config);
  if (!length.ok()) return Annotate(length.status(), config_path);
  state->length = *length;
  absl::StatusOr<Specials> specials = ReadSpecials(config, *legacy, vocabulary);
  if (!specials.ok()) return Annotate(specials.status(), config_path);
  state->begin = vocabulary.at(specials->names.at("bos_token"));
  state->end = vocabulary.at(specials->names.at("eos_token"));
  state->padding = vocabulary.at(specials->names.at("pad_token"));

  const std::string merges_path = folder + "/merges.txt";
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string merges, ReadFileLimited(merges_path, kFileBytesMax));
  absl::StatusOr<BytePairs> pairs = BytePairs::Make(vocabulary, merges, vocabulary.at(specials->names.at("unk_token")));
  if (!pairs.ok()) return Annotate(pairs.status(), merges_path);
  state->pairs = *std::move(pairs);

  TURBOFLEET_ASSIGN_OR_RETURN(state->normaliser, Normaliser::Make());
  for (const auto& [text, is_normalized] : specials->is_normalized) {
    if (!is_normalized) {
      state->raw.push_back({text, vocabulary.at(text)});
      continue;
    }
    TURBOFLEET_ASSIGN_OR_RETURN(const std::string normalized, state->normaliser.Apply(text));
    state->normalized.push_back({normalized, vocabulary.at(text)});
  }
  for (std::vector<SpecialToken>* tokens : {&state->raw, &state->normalized}) {
    std::sort(tokens->begin(), tokens->end(), [](const SpecialToken& a, const SpecialToken& b) {
      return std::tuple(b.text.size(), a.text, a.id) < std::tuple(a.text.size(), b.text, b.id);
    });
  }
  return ClipTokenizer(std::move(state));
}

absl::StatusOr<ClipTokenizer::Tokens> ClipTokenizer::Encode(std::string_view prompt) const {
  if (prompt.size() > kPromptBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("prompt: longer than ", kPromptBytesMax, " bytes"));
  }
  if (!IsValidUtf8(prompt)) return absl::InvalidArgumentError("prompt: not valid UTF-8");
  std::vector<int64_t> ids;
  TURBOFLEET_RETURN_IF_ERROR(State::Split(prompt, state_->raw, &ids, [&](std::string_view text) -> absl::Status {
    TURBOFLEET_ASSIGN_OR_RETURN(const std::string normalized, state_->normaliser.Apply(text));
    return State::Split(normalized, state_->normalized, &ids,
                        [&](std::string_view words) { return state_->EncodeWords(words, &ids); });
  }));
  Tokens tokens;
  const size_t room = static_cast<size_t>(state_->length) - 2;
  const size_t kept = std::min(room, ids.size());
  tokens.tokens_cut = static_cast<int>(ids.size() - kept);
  tokens.ids.reserve(state_->length);
  tokens.ids.push_back(state_->begin);
  tokens.ids.insert(tokens.ids.end(), ids.begin(), ids.begin() + static_cast<ptrdiff_t>(kept));
  tokens.ids.push_back(state_->end);
  tokens.ids.resize(state_->length, state_->padding);
  return tokens;
}

int ClipTokenizer::length() const { return state_->length; }

}  // namespace turbofleet
