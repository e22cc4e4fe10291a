// SHA-256, by OpenSSL.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace turbofleet {

// Hashes data that arrives in pieces. Thread-compatible.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(const void* data, size_t size);
  // Ends the computation: 64 lower-case hex digits. REQUIRES: called once, nothing after it.
  std::string HexDigest();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The 64 hex digits of one piece of data.
std::string Sha256Hex(const void* data, size_t size);

}  // namespace turbofleet
