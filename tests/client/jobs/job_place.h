// A folder of pictures that is gone when the test is.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace turbofleet::cli {

class JobPlace {
 public:
  JobPlace() : path_((std::filesystem::temp_directory_path() / "turbofleet-jobs-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~JobPlace() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  JobPlace(const JobPlace&) = delete;
  JobPlace& operator=(const JobPlace&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(*this / name, std::ios::binary) << content;
    return *this / name;
  }
  std::string Read(const std::string& name) const {
    std::ostringstream content;
    content << std::ifstream(*this / name, std::ios::binary).rdbuf();
    return content.str();
  }
  bool Has(const std::string& name) const { return std::filesystem::exists(*this / name); }
  nlohmann::json Json(const std::string& name) const { return nlohmann::json::parse(Read(name)); }
  std::vector<nlohmann::json> Lines(const std::string& name) const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(Read(name));
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  // Of the lines, in their order.
  std::vector<int> Indexes(const std::string& name) const {
    std::vector<int> indexes;
    for (const nlohmann::json& line : Lines(name)) indexes.push_back(line["index"]);
    return indexes;
  }
  // Files that are pictures.
  size_t Pictures(const std::string& folder) const {
    size_t pictures = 0;
    for (const auto& file : std::filesystem::directory_iterator(*this / folder)) {
      pictures += file.path().extension() == ".png" ? 1u : 0u;
    }
    return pictures;
  }

 private:
  std::string path_;
};

}  // namespace turbofleet::cli
