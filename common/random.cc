#include "common/random.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

namespace turbofleet {
namespace {

// The system's generator cannot fail once the machine has booted; a program that got no randomness must not go on.
void FillRandom(unsigned char* data, size_t size) {
  size_t filled = 0;
  while (filled < size) {
    const ssize_t got = getrandom(data + filled, size - filled, 0);
    if (got < 0 && errno != EINTR) std::abort();
    if (got > 0) filled += static_cast<size_t>(got);
  }
}

}  // namespace

std::string RandomHex128() {
  std::array<unsigned char, 16> bytes;
  FillRandom(bytes.data(), bytes.size());
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const unsigned char byte : bytes) {
    text.push_back(kHex[byte >> 4]);
    text.push_back(kHex[byte & 15]);
  }
  return text;
}

uint32_t RandomUint32() {
  std::array<unsigned char, 4> bytes;
  FillRandom(bytes.data(), bytes.size());
  uint32_t value = 0;
  for (const unsigned char byte : bytes) value = (value << 8) | byte;
  return value;
}

}  // namespace turbofleet
