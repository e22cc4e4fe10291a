// Reads one config.json key by key, with defaults and limits, and reports keys that nobody asked for.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace turbofleet::sd_turbo {

// The first problem is kept and later reads return defaults, so that callers read all keys and check status() once.
// A JSON null counts as an absent key. Thread-compatible.
class ConfigReader {
 public:
  // The file must hold an object.
  static absl::StatusOr<ConfigReader> Open(const std::string& path);

  int64_t Integer(const std::string& key, int64_t fallback, int64_t min, int64_t max);
  double Real(const std::string& key, double fallback, double min, double max);
  bool Flag(const std::string& key, bool fallback);
  std::string Text(const std::string& key, const std::string& fallback);
  std::vector<int64_t> Integers(const std::string& key, const std::vector<int64_t>& fallback, int64_t min, int64_t max);
  std::vector<std::string> Texts(const std::string& key, const std::vector<std::string>& fallback);
  // One integer for all of `count` places, or a list of that many.
  std::vector<int64_t> IntegerOrList(const std::string& key, int64_t fallback, size_t count, int64_t min, int64_t max);

  // The key may be absent, null or `only`; everything else is an error.
  void Only(const std::string& key, const nlohmann::json& only);
  // The key has no influence on pictures.
  void Ignore(std::string_view key);
  // Records an error about a key.
  void Refuse(const std::string& key, const std::string& why);

  // After all reads: an unread key that is not null, false or private ("_...") is an error.
  absl::Status Finish();
  const absl::Status& status() const { return status_; }

 private:
  ConfigReader(std::string path, nlohmann::json json) : path_(std::move(path)), json_(std::move(json)) {}
  // Null when the key is absent or null.
  const nlohmann::json* Find(const std::string& key);

  std::string path_;
  nlohmann::json json_;
  std::set<std::string, std::less<>> read_;
  absl::Status status_;
};

}  // namespace turbofleet::sd_turbo
