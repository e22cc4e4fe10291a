// Certificates made on the spot, so that no key lies in the repository and none expires.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace turbofleet {

// An authority with a key of its own.
class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name);
  ~TestAuthority();

  struct Leaf {
    std::string name;                   // Common name, and the only DNS name.
    bool expired = false;               // Ended an hour ago.
    std::filesystem::path certificate;  // Where to write it, PEM.
    std::filesystem::path key;          // Where to write its key, PEM.
  };

  void Issue(const Leaf& leaf) const;
  void WriteCertificate(const std::filesystem::path& path) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace turbofleet
