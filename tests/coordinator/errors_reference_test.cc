// docs/reference/errors.md is what programs in other languages are written against: it must have every reason that the
// code gives, and none that it does not.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace turbofleet {
namespace {

const std::filesystem::path kRoot = TURBOFLEET_SOURCE_DIR;

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::set<std::string> Matches(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  std::set<std::string> matches;
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match) {
    matches.insert((*match)[1]);
  }
  return matches;
}

// Every string literal that is written like a reason.
std::set<std::string> ReasonsIn(const std::vector<std::string>& folders) {
  std::set<std::string> reasons;
  for (const std::string& folder : folders) {
    for (const auto& entry : std::filesystem::directory_iterator(kRoot / folder)) {
      if (entry.path().extension() != ".cc") continue;
      reasons.merge(Matches(Read(entry.path()), R"re("([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)")re"));
    }
  }
  return reasons;
}

TEST(ErrorsReferenceTest, ListsExactlyTheReasonsOfTheCode) {
  std::set<std::string> given = ReasonsIn({"coordinator/dispatch", "coordinator/service", "worker/agent"});
  const std::string shared = Read(kRoot / "common/errors.cc");
  given.merge(Matches(shared, R"re("(INVALID_FIELD)")re"));
  const std::set<std::string> documented =
      Matches(Read(kRoot / "docs/reference/errors.md"), R"re(\n\| `([A-Z][A-Z0-9_]+)` \|)re");
  EXPECT_THAT(documented, ::testing::ContainerEq(given));
}

}  // namespace
}  // namespace turbofleet
