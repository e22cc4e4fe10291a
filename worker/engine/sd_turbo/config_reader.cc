#include "worker/engine/sd_turbo/config_reader.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/engine/json/strict_json.h"

namespace turbofleet::sd_turbo {

absl::StatusOr<ConfigReader> ConfigReader::Open(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(nlohmann::json json, ReadStrictJson(path, JsonLimits{}));
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  return ConfigReader(path, std::move(json));
}

const nlohmann::json* ConfigReader::Find(const std::string& key) {
  read_.insert(key);
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

void ConfigReader::Refuse(const std::string& key, const std::string& why) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(path_, ": ", key, ": ", why));
}

int64_t ConfigReader::Integer(const std::string& key, int64_t fallback, int64_t min, int64_t max) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number_integer() || *value < min || *value > max) {
    Refuse(key, absl::StrCat("must be an integer from ", min, " to ", max));
    return fallback;
  }
  return value->get<int64_t>();
}

double ConfigReader::Real(const std::string& key, double fallback, double min, double max) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= min && number <= max)) {
    Refuse(key, absl::StrCat("must be a number from ", min, " to ", max));
    return fallback;
  }
  return number;
}

bool ConfigReader::Flag(const std::string& key, bool fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Refuse(key, "must be true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::Text(const std::string& key, const std::string& fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    Refuse(key, "must be a string");
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<int64_t> ConfigReader::Integers(const std::string& key, const std::vector<int64_t>& fallback, int64_t min,
                                            int64_t max) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  std::vector<int64_t> numbers;
  bool good = value->is_array() && !value->empty() && value->size() <= 16;
  for (size_t i = 0; good && i < value->size(); ++i) {
    const nlohmann::json& entry = (*value)[i];
    good = entry.is_number_integer() && entry >= min && entry <= max;
    if (good) numbers.push_back(entry.get<int64_t>());
  }
  if (good) return numbers;
  Refuse(key, absl::StrCat("must be a list of 1 to 16 integers from ", min, " to ", max));
  return fallback;
}

std::vector<std::string> ConfigReader::Texts(const std::string& key, const std::vector<std::string>& fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  std::vector<std::string> texts;
  bool good = value->is_array() && !value->empty() && value->size() <= 16;
  for (size_t i = 0; good && i < value->size(); ++i) {
    good = (*value)[i].is_string();
    if (good) texts.push_back((*value)[i].get<std::string>());
  }
  if (good) return texts;
  Refuse(key, "must be a list of 1 to 16 strings");
  return fallback;
}

std::vector<int64_t> ConfigReader::IntegerOrList(const std::string& key, int64_t fallback, size_t count, int64_t min,
                                                 int64_t max) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_array()) {
    return std::vector<int64_t>(count, Integer(key, fallback, min, max));
  }
  std::vector<int64_t> numbers = Integers(key, {}, min, max);
  if (numbers.size() != count) {
    Refuse(key, absl::StrCat("must have ", count, " entries, one for each block"));
    numbers.assign(count, fallback);
  }
  return numbers;
}

void ConfigReader::Only(const std::string& key, const nlohmann::json& only) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || *value == only) return;
  Refuse(key, absl::StrCat(Quoted(value->dump()), " is not supported, only ", only.dump()));
}

void ConfigReader::Ignore(std::string_view key) { read_.emplace(key); }

absl::Status ConfigReader::Finish() {
  for (const auto& [key, value] : json_.items()) {
    if (read_.contains(key) || key.starts_with("_") || value.is_null() || value == false) continue;
    Refuse(Quoted(key), "this key is not known, so it cannot be honoured");
  }
  return status_;
}

}  // namespace turbofleet::sd_turbo
