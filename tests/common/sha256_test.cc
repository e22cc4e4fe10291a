#include "common/sha256.h"

#include "gtest/gtest.h"

namespace turbofleet {
namespace {

// The examples of FIPS 180-2.
TEST(Sha256Test, MatchesTheStandardsExamples) {
  EXPECT_EQ(Sha256Hex("", 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, PiecesAreTheWhole) {
  const std::string data(1'000'000, 'a');
  Sha256 hash;
  for (size_t i = 0; i < data.size(); i += 999) hash.Update(data.data() + i, std::min<size_t>(999, data.size() - i));
  EXPECT_EQ(hash.HexDigest(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace turbofleet
