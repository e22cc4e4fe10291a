#include "common/random.h"

#include <set>

#include "gmock/gmock.h"

namespace turbofleet {
namespace {

TEST(RandomTest, NamesHaveTheirFormAndDiffer) {
  std::set<std::string> names;
  for (int i = 0; i < 1000; ++i) {
    const std::string name = RandomHex128();
    ASSERT_THAT(name, ::testing::MatchesRegex("[0-9a-f]{32}"));
    names.insert(name);
  }
  EXPECT_EQ(names.size(), 1000u);
}

// Each of the 32 bits has to move: a value that is built from too few bytes would still look random.
TEST(RandomTest, AllBitsOfANumberMove) {
  uint32_t seen_set = 0;
  uint32_t seen_clear = 0;
  for (int i = 0; i < 200; ++i) {
    const uint32_t value = RandomUint32();
    seen_set |= value;
    seen_clear |= ~value;
  }
  EXPECT_EQ(seen_set, 0xFFFFFFFFu);
  EXPECT_EQ(seen_clear, 0xFFFFFFFFu);
}

}  // namespace
}  // namespace turbofleet
