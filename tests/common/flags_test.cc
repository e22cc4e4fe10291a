#include "common/flags.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A program with options of its own and a subcommand, started as a shell would.
class FlagsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / absl::StrCat("flags_test.", getpid());
    std::filesystem::create_directories(folder_ / "turbofleet");
    SetEnvironment("XDG_CONFIG_HOME", folder_.string());
  }

  void TearDown() override {
    for (const std::string& name : environment_) unsetenv(name.c_str());
    std::filesystem::remove_all(folder_);
  }

  void SetEnvironment(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    environment_.push_back(name);
  }

  std::string WriteConfig(const std::string& text, const std::string& name = "turbofleet/paint.toml") {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }

  std::optional<int> Run(std::vector<const char*> arguments) {
    Flags flags("paint", "Paints.");
    flags.app().add_option("--server", server_, "Where to");
    flags.app().add_option("--size-max", size_max_)->check(CLI::Range(1, 100));
    flags.app().add_flag("--quick", quick_);
    CLI::App* draw = flags.app().add_subcommand("draw", "Draws");
    draw->add_option("--steps", steps_, "How often")->check(CLI::Range(1, 4));
    draw->add_option("--colours", colours_);
    draw->add_option("subject", subject_);
    CLI::App* list = flags.app().add_subcommand("list", "Lists");
    list->add_option("--columns", columns_)->check(CLI::Range(1, 4));
    arguments.insert(arguments.begin(), "paint");
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const std::optional<int> code = flags.Parse(static_cast<int>(arguments.size()), arguments.data());
    output_ = ::testing::internal::GetCapturedStdout();
    errors_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  std::filesystem::path folder_;
  std::vector<std::string> environment_;
  std::string server_ = "default";
  int size_max_ = 10;
  bool quick_ = false;
  int steps_ = 1;
  std::vector<std::string> colours_;
  std::string subject_;
  int columns_ = 1;
  std::string output_;
  std::string errors_;
};

TEST_F(FlagsTest, DefaultsStandWhenNothingIsGiven) {
  EXPECT_EQ(Run({}), std::nullopt);
  EXPECT_EQ(server_, "default");
  EXPECT_EQ(size_max_, 10);
}

TEST_F(FlagsTest, FileBeatsDefault) {
  WriteConfig("server = \"file # no comment\"\nsize-max = 20\nquick = true\n");
  EXPECT_EQ(Run({}), std::nullopt) << errors_;
  EXPECT_EQ(server_, "file # no comment");
  EXPECT_EQ(size_max_, 20);
  EXPECT_TRUE(quick_);
}

// CLI11 alone takes the file's value here.
TEST_F(FlagsTest, EnvironmentBeatsFile) {
  WriteConfig("server = \"file\"\nsize-max = 20\n");
  SetEnvironment("TURBOFLEET_SERVER", "environment");
  SetEnvironment("TURBOFLEET_QUICK", "true");
  EXPECT_EQ(Run({}), std::nullopt) << errors_;
  EXPECT_EQ(server_, "environment");
  EXPECT_EQ(size_max_, 20);
  EXPECT_TRUE(quick_);
}

TEST_F(FlagsTest, FlagBeatsEverything) {
  WriteConfig("server = \"file\"\nsize-max = 20\n");
  SetEnvironment("TURBOFLEET_SERVER", "environment");
  SetEnvironment("TURBOFLEET_SIZE_MAX", "30");
  EXPECT_EQ(Run({"--server", "flag", "--size-max=40"}), std::nullopt) << errors_;
  EXPECT_EQ(server_, "flag");
  EXPECT_EQ(size_max_, 40);
}

TEST_F(FlagsTest, SubcommandsHaveTheSamePrecedence) {
  WriteConfig("[draw]\nsteps = 2\ncolours = [\"red\", \"blue, dark\"]\n");
  EXPECT_EQ(Run({"draw", "fox"}), std::nullopt) << errors_;
  EXPECT_EQ(steps_, 2);
  EXPECT_EQ(subject_, "fox");
  EXPECT_THAT(colours_, ::testing::ElementsAre("red", "blue, dark"));

  SetEnvironment("TURBOFLEET_STEPS", "3");
  EXPECT_EQ(Run({"draw", "fox"}), std::nullopt) << errors_;
  EXPECT_EQ(steps_, 3);
  EXPECT_EQ(Run({"draw", "fox", "--steps=4"}), std::nullopt) << errors_;
  EXPECT_EQ(steps_, 4);
}

TEST_F(FlagsTest, AnEmptyVariableCountsAsNotSet) {
  WriteConfig("server = \"file\"\n");
  SetEnvironment("TURBOFLEET_SERVER", "");
  EXPECT_EQ(Run({}), std::nullopt);
  EXPECT_EQ(server_, "file");
}

TEST_F(FlagsTest, TheFileCanBeNamedByFlagOrEnvironment) {
  WriteConfig("server = \"default file\"\n");
  const std::string other = WriteConfig("server = \"other file\"\n", "other.toml");
  const std::string third = WriteConfig("server = \"third file\"\n", "third.toml");
  SetEnvironment("TURBOFLEET_CONFIG", other);
  EXPECT_EQ(Run({}), std::nullopt) << errors_;
  EXPECT_EQ(server_, "other file");
  EXPECT_EQ(Run({"--config", third.c_str()}), std::nullopt) << errors_;
  EXPECT_EQ(server_, "third file");
}

TEST_F(FlagsTest, AMissingFileIsAnErrorOnlyIfItWasNamed) {
  EXPECT_EQ(Run({}), std::nullopt);
  EXPECT_EQ(Run({"--config", "/nonexistent/paint.toml"}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("/nonexistent/paint.toml"));
  SetEnvironment("TURBOFLEET_CONFIG", "/nonexistent/other.toml");
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_THAT(errors_, AllOf(HasSubstr("TURBOFLEET_CONFIG"), HasSubstr("/nonexistent/other.toml")));
}

// A key that nobody reads is a setting that somebody believes in.
TEST_F(FlagsTest, AnUnknownKeyOrABrokenFileIsRefused) {
  WriteConfig("sever = \"typo\"\n");
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("sever"));
  WriteConfig("[drew]\nsteps = 2\n");
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("drew"));
  WriteConfig("\nserver = no quotes\n");
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("line 2"));
  WriteConfig("server = 2026-01-01\n");
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("server"));
  WriteConfig("size-max = 1000\n");
  EXPECT_EQ(Run({}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("size-max"));
}

TEST_F(FlagsTest, HelpAndVersionGoToStandardOutput) {
  EXPECT_EQ(Run({"--help"}), kExitOk);
  EXPECT_THAT(output_, AllOf(HasSubstr("Paints."), HasSubstr("--server"), HasSubstr("TURBOFLEET_SERVER")));
  EXPECT_EQ(errors_, "");
  EXPECT_EQ(Run({"draw", "--help"}), kExitOk);
  EXPECT_THAT(output_, AllOf(HasSubstr("--steps"), HasSubstr("TURBOFLEET_STEPS")));
  EXPECT_EQ(Run({"--version"}), kExitOk);
  EXPECT_THAT(output_, ::testing::MatchesRegex("paint [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(FlagsTest, UsageErrorsExitWithTwoAndAHint) {
  EXPECT_EQ(Run({"--server"}), kExitUsage);
  EXPECT_THAT(errors_, AllOf(HasSubstr("--server"), HasSubstr("paint --help")));
  EXPECT_EQ(Run({"--servr", "x"}), kExitUsage);
  EXPECT_THAT(errors_, AllOf(HasSubstr("--servr"), HasSubstr("Did you mean --server?")));
  EXPECT_EQ(Run({"darw"}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("Did you mean draw?"));
  EXPECT_EQ(Run({"draw", "fox", "--steps", "9"}), kExitUsage);
  EXPECT_THAT(errors_, AllOf(HasSubstr("--steps"), HasSubstr("paint draw --help")));
  EXPECT_EQ(Run({"draw", "fox", "--stesp=2"}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("Did you mean --steps?"));
  EXPECT_EQ(output_, "");
}

TEST_F(FlagsTest, AWrongVariableIsBlamedByName) {
  SetEnvironment("TURBOFLEET_STEPS", "9");
  EXPECT_EQ(Run({"draw", "fox"}), kExitUsage);
  EXPECT_THAT(errors_, HasSubstr("TURBOFLEET_STEPS"));
  EXPECT_EQ(Run({"list"}), std::nullopt) << "a variable of another command was read: " << errors_;
}

TEST(EnvironmentNameOfTest, FollowsTheOption) {
  EXPECT_EQ(EnvironmentNameOf("--tls-cert"), "TURBOFLEET_TLS_CERT");
  EXPECT_EQ(EnvironmentNameOf("out"), "TURBOFLEET_OUT");
}

}  // namespace
}  // namespace turbofleet
