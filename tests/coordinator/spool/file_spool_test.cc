#include "coordinator/spool/file_spool.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FileSpoolTest : public ::testing::Test {
 protected:
  FileSpoolTest()
      : folder_(::testing::TempDir() + "spool-" + ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(folder_);
    Make("a");
  }
  ~FileSpoolTest() override { fs::remove_all(folder_); }

  Spool& Make(const std::string& life, int64_t pack_bytes_max = 1 << 20, size_t packs_open_max = 4) {
    absl::StatusOr<std::unique_ptr<FileSpool>> spool = FileSpool::Open({.folder = folder_,
                                                                        .life = life,
                                                                        .pack_bytes_max = pack_bytes_max,
                                                                        .packs_open_max = packs_open_max,
                                                                        .disk_free_min = 0});
    EXPECT_TRUE(spool.ok()) << spool.status();
    spool_ = *std::move(spool);
    return *spool_;
  }
  PackedFile Append(const std::string& job, int32_t index, const std::string& content) {
    const absl::StatusOr<PackedFile> file = spool_->Append(job, index, content);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.value_or(PackedFile{});
  }
  void Overwrite(const PackedFile& file, int64_t offset, char byte) {
    std::fstream pack(folder_ + "/" + file.pack + ".pack", std::ios::in | std::ios::out | std::ios::binary);
    pack.seekp(offset);
    pack.put(byte);
  }

  const std::string folder_;
  std::unique_ptr<FileSpool> spool_;
};

TEST_F(FileSpoolTest, GivesBackWhatWasPut) {
  const PackedFile first = Append("job", 0, "one");
  const PackedFile empty = Append("job", 1, "");
  const PackedFile second = Append("job", 2, std::string("t\0o", 3));
  TURBOFLEET_EXPECT_OK(spool_->Sync());
  EXPECT_THAT(spool_->Read(first), IsOkAndHolds("one"));
  EXPECT_THAT(spool_->Read(empty), IsOkAndHolds(""));
  EXPECT_THAT(spool_->Read(second), IsOkAndHolds(std::string("t\0o", 3)));
  EXPECT_EQ(first.pack, second.pack);
}

TEST_F(FileSpoolTest, ALaterLifeReadsWhatAnEarlierOneWroteAndWritesToPacksOfItsOwn) {
  const PackedFile file = Append("job", 0, "one");
  TURBOFLEET_EXPECT_OK(spool_->Sync());
  Make("b");
  const PackedFile later = Append("job", 1, "two");
  EXPECT_NE(file.pack, later.pack);
  EXPECT_THAT(spool_->Read(file), IsOkAndHolds("one"));
  EXPECT_THAT(spool_->Read(later), IsOkAndHolds("two"));
}

TEST_F(FileSpoolTest, PacksEndAtTheirLimitAndNoMoreAreOpenThanAllowed) {
  Make("b", /*pack_bytes_max=*/100, /*packs_open_max=*/2);
  const PackedFile first = Append("job", 0, std::string(60, 'x'));
  const PackedFile second = Append("job", 1, std::string(60, 'y'));
  EXPECT_NE(first.pack, second.pack);
  // Larger than a pack: it gets one for itself.
  const PackedFile large = Append("job", 2, std::string(500, 'z'));
  for (int i = 0; i < 5; ++i) Append(std::string(1, static_cast<char>('k' + i)), 0, "w");
  const PackedFile third = Append("job", 3, "v");
  TURBOFLEET_EXPECT_OK(spool_->Sync());
  EXPECT_THAT(spool_->Read(first), IsOkAndHolds(std::string(60, 'x')));
  EXPECT_THAT(spool_->Read(second), IsOkAndHolds(std::string(60, 'y')));
  EXPECT_THAT(spool_->Read(large), IsOkAndHolds(std::string(500, 'z')));
  EXPECT_THAT(spool_->Read(third), IsOkAndHolds("v"));
}

TEST_F(FileSpoolTest, WhateverIsNotAsItWasWrittenIsDataLoss) {
  const PackedFile file = Append("job", 7, "picture");
  TURBOFLEET_EXPECT_OK(spool_->Sync());
  PackedFile wrong = file;
  wrong.offset += 1;
  EXPECT_THAT(spool_->Read(wrong), StatusIs(absl::StatusCode::kDataLoss));
  wrong = file;
  wrong.length += 1;
  EXPECT_THAT(spool_->Read(wrong), StatusIs(absl::StatusCode::kDataLoss));
  wrong = file;
  wrong.crc32c ^= 1;
  EXPECT_THAT(spool_->Read(wrong), StatusIs(absl::StatusCode::kDataLoss));
  wrong = file;
  wrong.offset = -5;
  EXPECT_THAT(spool_->Read(wrong), StatusIs(absl::StatusCode::kDataLoss));
  wrong = file;
  wrong.pack = "job/none";
  EXPECT_THAT(spool_->Read(wrong), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("job/none")));
  // A bit of the file, and one of its header.
  Overwrite(file, file.offset + 3, 'X');
  EXPECT_THAT(spool_->Read(file), StatusIs(absl::StatusCode::kDataLoss));
  Overwrite(file, file.offset + 3, 't');
  EXPECT_THAT(spool_->Read(file), IsOkAndHolds("picture"));
  Overwrite(file, file.offset - 28, 'X');
  EXPECT_THAT(spool_->Read(file), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(FileSpoolTest, ASealedPackIsNotWrittenToAgain) {
  const PackedFile first = Append("job", 0, "one");
  spool_->Seal(first.pack);
  const PackedFile second = Append("job", 1, "two");
  EXPECT_NE(first.pack, second.pack);
  spool_->RemovePack(first.pack);
  EXPECT_THAT(spool_->Read(first), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(spool_->Read(second), IsOkAndHolds("two"));
  spool_->RemovePack(first.pack);
}

TEST_F(FileSpoolTest, RemovesAJobAndOnlyThat) {
  const PackedFile mine = Append("mine", 0, "one");
  const PackedFile other = Append("other", 0, "two");
  EXPECT_THAT(spool_->Jobs(), ElementsAre("mine", "other"));
  spool_->RemoveJob("mine");
  spool_->RemoveJob("none");
  spool_->RemoveJob("");
  spool_->RemoveJob("../" + fs::path(folder_).filename().string());
  EXPECT_THAT(spool_->Jobs(), ElementsAre("other"));
  EXPECT_THAT(spool_->Read(other), IsOkAndHolds("two"));
  TURBOFLEET_EXPECT_OK(spool_->Sync());
  // And it can come back.
  EXPECT_THAT(spool_->Read(Append("mine", 0, "again")), IsOkAndHolds("again"));
}

TEST_F(FileSpoolTest, KeepsOffTheLastBytesOfADisk) {
  absl::StatusOr<std::unique_ptr<FileSpool>> spool =
      FileSpool::Open({.folder = folder_, .life = "c", .disk_free_min = int64_t{1} << 60});
  TURBOFLEET_ASSERT_OK(spool);
  EXPECT_THAT((*spool)->CheckRoom(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk_free_min")));
  EXPECT_THAT((*spool)->Append("job", 0, "x"), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT((*spool)->Jobs(), IsEmpty());
}

TEST_F(FileSpoolTest, NamesAFolderThatCannotBe) {
  std::ofstream(folder_ + "/file") << "x";
  EXPECT_THAT(FileSpool::Open({.folder = folder_ + "/file/spool", .life = "d"}).status().message(),
              HasSubstr(folder_ + "/file/spool"));
}

}  // namespace
}  // namespace turbofleet
