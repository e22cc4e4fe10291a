#include "common/standard_flags.h"

#include "common/flags.h"
#include "gmock/gmock.h"

namespace turbofleet {
namespace {

TEST(StandardFlagsTest, FillTheirOptions) {
  Flags flags("serve", "Serves.");
  TlsOptions tls;
  LogOptions log;
  AddTlsFlags(flags.app(), TlsRole::kListener, &tls);
  AddLogFlags(flags.app(), &log);
  const char* arguments[] = {"serve", "--tls-cert", "a.pem",       "--tls-key", "b.pem",        "--tls-ca",
                             "c.pem", "--insecure", "--log-level", "error",     "--log-format", "json"};
  ASSERT_EQ(flags.Parse(std::size(arguments), arguments), std::nullopt);
  EXPECT_EQ(tls.certificate, "a.pem");
  EXPECT_EQ(tls.key, "b.pem");
  EXPECT_EQ(tls.authority, "c.pem");
  EXPECT_TRUE(tls.insecure);
  EXPECT_EQ(log.level, LogLevel::kError);
  EXPECT_EQ(log.format, LogFormat::kJson);
}

TEST(StandardFlagsTest, DefaultsAreSafe) {
  Flags flags("serve", "Serves.");
  TlsOptions tls;
  LogOptions log;
  AddTlsFlags(flags.app(), TlsRole::kChannel, &tls);
  AddLogFlags(flags.app(), &log);
  const char* arguments[] = {"serve"};
  ASSERT_EQ(flags.Parse(1, arguments), std::nullopt);
  EXPECT_FALSE(tls.insecure);
  EXPECT_EQ(log.level, LogLevel::kInfo);
  EXPECT_EQ(log.format, LogFormat::kText);
}

TEST(StandardFlagsTest, UnknownLevelsAreRefused) {
  Flags flags("serve", "Serves.");
  LogOptions log;
  AddLogFlags(flags.app(), &log);
  const char* arguments[] = {"serve", "--log-level", "loud"};
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(flags.Parse(3, arguments), kExitUsage);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::HasSubstr("--log-level"));
}

}  // namespace
}  // namespace turbofleet
