#include "common/address.h"

#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ParseHostPortTest, TakesNamesAndBothFamilies) {
  const absl::StatusOr<HostPort> name = ParseHostPort("--listen", "gpu-7.example:50051");
  TURBOFLEET_ASSERT_OK(name);
  EXPECT_EQ(name->host, "gpu-7.example");
  EXPECT_EQ(name->port, 50051);

  const absl::StatusOr<HostPort> v6 = ParseHostPort("--listen", "[fe80::1]:0");
  TURBOFLEET_ASSERT_OK(v6);
  EXPECT_EQ(v6->host, "fe80::1");
  EXPECT_EQ(v6->port, 0);
}

TEST(ParseHostPortTest, FormatIsTheInverse) {
  for (const std::string address : {"127.0.0.1:1", "[::1]:65535", "localhost:50051"}) {
    EXPECT_EQ(FormatHostPort(ParseHostPort("x", address).value()), address);
  }
}

// The error has to lead to the flag and to the right form, because operators meet it first.
TEST(ParseHostPortTest, RefusesEverythingElseByName) {
  for (const std::string address : {"", "localhost", "localhost:", ":50051", "localhost:65536", "localhost:-1",
                                    "localhost:+1", "localhost: 1", "localhost:5x", "::1:50051", "[::1]", "[::1:50051",
                                    "[]:1", "[localhost]:1", "localhost:99999999999999999999"}) {
    EXPECT_THAT(ParseHostPort("--listen", address),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--listen"), HasSubstr("HOST:PORT"))))
        << address;
  }
}

TEST(IsLoopbackTest, OnlyWhatNoOtherMachineCanReach) {
  for (const std::string address :
       {"127.0.0.1:1", "127.255.0.9:50051", "localhost:50051", "LocalHost:1", "[::1]:50051", "unix:/run/x.sock",
        "unix:///run/x.sock", "unix-abstract:x", "dns:///localhost:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
}

// A name that only looks local, and the wildcard addresses, are the ways in which a port is opened by mistake.
TEST(IsLoopbackTest, EverythingElseIsTheNetwork) {
  for (const std::string address :
       {"0.0.0.0:50051", "[::]:50051", ":50051", "10.0.0.1:1", "128.0.0.1:1", "127.0.0.1.evil.example:1",
        "localhost.evil.example:1", "xlocalhost:1", "127.1:1", "[::ffff:127.0.0.1]:1", "ipv4:127.0.0.1:1,10.0.0.1:1",
        "dns:///example.com:1", "", "127.0.0.1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

}  // namespace
}  // namespace turbofleet
