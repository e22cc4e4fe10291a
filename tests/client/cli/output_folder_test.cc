#include "client/cli/output_folder.h"

#include <sys/stat.h>

#include "nlohmann/json.hpp"
#include "tests/client/cli/entries.h"
#include "tests/client/cli/temporary_folder.h"
#include "tests/support/status_matchers.h"

namespace turbofleet::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsNull;
using ::testing::NotNull;
using ::testing::SizeIs;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

NameTemplate Names(const std::string& text = "{index}") { return *NameTemplate::Parse(text); }

std::unique_ptr<OutputFolder> Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<OutputFolder>> folder = OutputFolder::Open(path, Names());
  EXPECT_THAT(folder, IsOk());
  return *std::move(folder);
}

TEST(OutputFolderTest, APictureIsInTheManifestOnceItsFileIsThere) {
  const TemporaryFolder temporary;
  const std::string path = temporary / "a/b";  // Made with its parents.
  ManifestEntry entry = Entry(0);
  TURBOFLEET_ASSERT_OK(Open(path)->AddImage("png", "content", &entry));
  EXPECT_EQ(entry.path, "0.png");
  EXPECT_EQ(temporary.Read("a/b/0.png"), "content");
  EXPECT_EQ(temporary.Read("a/b/manifest.jsonl"), ToJson(entry).dump() + "\n");
}

TEST(OutputFolderTest, NoFileIsEverReplacedAndNoneIsLeftHalf) {
  const TemporaryFolder temporary;
  temporary.Write("0.png", "somebody else's");
  const auto folder = Open(temporary.path());
  ManifestEntry first = Entry(0), second = Entry(0), same = Entry(0);
  TURBOFLEET_ASSERT_OK(folder->AddImage("png", "mine", &first));
  TURBOFLEET_ASSERT_OK(folder->AddImage("png", "another", &second));
  // From a run that was killed between the file and its line: the same picture needs no second file.
  TURBOFLEET_ASSERT_OK(folder->AddImage("png", "mine", &same));
  EXPECT_EQ(first.path, "0-2.png");
  EXPECT_EQ(second.path, "0-3.png");
  EXPECT_EQ(same.path, "0-2.png");
  EXPECT_EQ(temporary.Read("0.png"), "somebody else's");
  EXPECT_THAT(temporary.Names(), ElementsAre("0-2.png", "0-3.png", "0.png", "manifest.jsonl"));
}

TEST(OutputFolderTest, ASecondRunFindsEachPictureOnceIfItsFileIsStillThere) {
  const TemporaryFolder temporary;
  {
    const auto folder = Open(temporary.path());
    for (int i = 0; i < 3; ++i) {
      ManifestEntry entry = Entry(i);
      entry.request = i < 2 ? "same" : "other";
      TURBOFLEET_ASSERT_OK(folder->AddImage("png", std::to_string(i), &entry));
    }
  }
  std::filesystem::remove(temporary / "2.png");
  std::filesystem::create_directory(temporary / "2.png");
  const auto folder = Open(temporary.path());
  EXPECT_THAT(folder->earlier(), SizeIs(3));
  EXPECT_THAT(folder->TakeEarlier("same"), NotNull());
  EXPECT_THAT(folder->TakeEarlier("same"), NotNull());
  EXPECT_THAT(folder->TakeEarlier("same"), IsNull());
  EXPECT_THAT(folder->TakeEarlier("other"), IsNull());
  EXPECT_THAT(folder->TakeEarlier("unheard of"), IsNull());
}

TEST(OutputFolderTest, IndexesAreGivenOutOnce) {
  const TemporaryFolder temporary;
  temporary.Write("manifest.jsonl", ToJson(Entry(1)).dump() + "\n" + ToJson(Entry(5)).dump() + "\n");
  const auto folder = Open(temporary.path());
  EXPECT_EQ(folder->next_index(), 6);
  EXPECT_EQ(folder->TakeIndex(0), 0);
  EXPECT_EQ(folder->TakeIndex(1), 6);  // Taken by the manifest.
  EXPECT_EQ(folder->TakeIndex(0), 7);
  EXPECT_EQ(folder->TakeIndex(9), 9);
  EXPECT_EQ(folder->TakeIndex(9), 10);
  EXPECT_EQ(folder->next_index(), 11);
}

TEST(OutputFolderTest, AManifestThatWasCutShortIsRepaired) {
  const TemporaryFolder temporary;
  const std::string line = ToJson(Entry(0)).dump() + "\n";
  temporary.Write("manifest.jsonl", line + "{\"index\": 1, \"pro");
  ManifestEntry entry = Entry(1);
  TURBOFLEET_ASSERT_OK(Open(temporary.path())->AddImage("png", "x", &entry));
  EXPECT_EQ(temporary.Read("manifest.jsonl"), line + ToJson(entry).dump() + "\n");
}

TEST(OutputFolderTest, ADamagedManifestIsLeftAlone) {
  const TemporaryFolder temporary;
  temporary.Write("manifest.jsonl", "what is this?\n");
  EXPECT_THAT(OutputFolder::Open(temporary.path(), Names()), StatusIs(kInvalid, HasSubstr("line 1")));
  EXPECT_EQ(temporary.Read("manifest.jsonl"), "what is this?\n");
}

TEST(OutputFolderTest, TwoProcessesDoNotWriteToOneFolder) {
  const TemporaryFolder temporary;
  {
    const auto folder = Open(temporary.path());
    EXPECT_THAT(OutputFolder::Open(temporary.path(), Names()), StatusIs(absl::StatusCode::kFailedPrecondition));
  }
  Open(temporary.path());
}

TEST(OutputFolderTest, WhereNothingCanBeWrittenIsSaid) {
  const TemporaryFolder temporary;
  const std::string file = temporary.Write("file", "x");
  EXPECT_FALSE(OutputFolder::Open(file, Names()).ok());
  EXPECT_FALSE(OutputFolder::Open(file + "/below", Names()).ok());
  EXPECT_FALSE(OutputFolder::Open("/proc/turbofleet", Names()).ok());
}

TEST(OutputFolderTest, ErrorsAreLinesOfTheirOwnAndAreDroppedByANewRun) {
  const TemporaryFolder temporary;
  const auto folder = Open(temporary.path());
  TURBOFLEET_EXPECT_OK(folder->ClearErrors());  // There are none.
  TURBOFLEET_ASSERT_OK(folder->AddError({{"row", 1}}));
  TURBOFLEET_ASSERT_OK(folder->AddError({{"row", 2}, {"message", "\xff"}}));
  EXPECT_EQ(temporary.Read("errors.jsonl"), "{\"row\":1}\n{\"row\":2,\"message\":\"\xef\xbf\xbd\"}\n");
  TURBOFLEET_ASSERT_OK(folder->ClearErrors());
  EXPECT_THAT(temporary.Names(), ElementsAre("manifest.jsonl"));
}

TEST(NameTemplateTest, FieldsAreFilledIn) {
  ManifestEntry entry = Entry(42, "A fox, in snow -- at night!", 7);
  entry.id = "../../etc/passwd";
  EXPECT_EQ(Names("{index:06d}-{seed}").Format(entry), "000042-7");
  EXPECT_EQ(Names("{index}_{prompt}").Format(entry), "42_A-fox-in-snow-at-night");
  EXPECT_EQ(Names("x{index:01d}{id}").Format(entry), "x42etc-passwd");
  entry.prompt = "\xe7\x8b\x90 /\\..";
  EXPECT_EQ(Names("{index}{prompt}").Format(entry), "42");
  entry.prompt = std::string(4096, 'y');
  EXPECT_EQ(Names("{index}{prompt}").Format(entry), "42" + std::string(40, 'y'));
  EXPECT_THAT(Names("{index}" + std::string(500, 'z')).Format(entry), SizeIs(200));
}

TEST(NameTemplateTest, WhatWouldRepeatOrLeaveTheFolderIsRefused) {
  for (const std::string text :
       {"", "{seed}", "picture", "../{index}", "a/{index}", "{index", "{index}}", "{Index}", "{index:6d}",
        "{index:06x}", "{index:00d}", "{index:010d}", "{path}{index}", "{}{index}", ".{index}", "{index}\n"}) {
    EXPECT_THAT(NameTemplate::Parse(text), StatusIs(kInvalid, HasSubstr("--name-template"))) << text;
  }
}

}  // namespace
}  // namespace turbofleet::cli
