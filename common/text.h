// Text that leaves the program: valid, bounded, and unable to forge a line.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace turbofleet {

// The length of the well-formed UTF-8 sequence that `text` starts with, 1 to 4; 0 if it starts with none.
size_t Utf8SequenceLength(std::string_view text);

// Whether all of `text` is well-formed UTF-8, without surrogates and overlong forms.
bool IsValidUtf8(std::string_view text);

// `text` with every byte that is not part of well-formed UTF-8 replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view text);

// The longest start of valid UTF-8 `text` of at most `bytes_max` bytes that cuts no character, with "..." after it if
// anything was cut.
std::string TruncateUtf8(std::string_view text, size_t bytes_max);

// A JSON string with its quotes. Invalid bytes become U+FFFD; control characters are escaped.
std::string JsonQuote(std::string_view text);

}  // namespace turbofleet
