// A coordinator that is killed while it commits, and a disk that is full.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/store/sqlite_connection.h"
#include "coordinator/store/sqlite_job_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kImages = 20'000;

// Commits image after image, several shards in a transaction, and writes each number that the store has answered into
// the pipe, until it is killed.
[[noreturn]] void CommitUntilKilled(const std::string& path, int pipe) {
  auto store = SqliteJobStore::Open({.path = path});
  if (!store.ok()) _exit(1);
  std::map<int32_t, std::vector<int32_t>> missing;
  const auto claimed = (*store)->Claim(SampleId(1), 1'000);
  if (!claimed.ok()) _exit(2);
  for (const ClaimedShard& shard : *claimed) {
    size_t next = 0;
    for (int32_t i = shard.first; i < shard.first + shard.count; ++i) {
      if (next < shard.ended.size() && shard.ended[next] == i) {
        ++next;
      } else {
        missing[shard.number].push_back(i);
      }
    }
  }
  while (!missing.empty()) {
    std::vector<ShardResults> all;
    for (auto shard = missing.begin(); shard != missing.end();) {
      std::vector<int32_t>& images = shard->second;
      const size_t rest = images.size() - std::min<size_t>(images.size(), 3);
      all.push_back(PicturesOf(SampleId(1), shard->first, {images.begin() + static_cast<int64_t>(rest), images.end()}));
      images.resize(rest);
      shard = images.empty() ? missing.erase(shard) : std::next(shard);
    }
    const auto receipts = (*store)->CommitAll(all, At(1));
    if (!receipts.ok()) _exit(3);
    int64_t last = 0;
    for (const auto& receipt : *receipts) {
      if (!receipt.ok()) _exit(4);
      for (const int64_t sequence : receipt->sequences) {
        if (sequence == 0) _exit(5);
        last = std::max(last, sequence);
      }
    }
    if (write(pipe, &last, sizeof(last)) != sizeof(last)) _exit(6);
  }
  _exit(0);
}

// Kills a child after it has answered `answers` commits and `delay_us` more. Returns the last number that it answered.
int64_t RunAndKill(const std::string& path, int answers, int delay_us) {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = fork();
  if (child == 0) CommitUntilKilled(path, ends[1]);
  close(ends[1]);
  int64_t last = 0;
  int64_t sequence = 0;
  for (int i = 0; i < answers && read(ends[0], &sequence, sizeof(sequence)) == sizeof(sequence); ++i) last = sequence;
  const absl::Time until = absl::Now() + absl::Microseconds(delay_us);
  while (absl::Now() < until) {
  }
  kill(child, SIGKILL);
  while (read(ends[0], &sequence, sizeof(sequence)) == sizeof(sequence)) last = sequence;
  close(ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "exit status " << WEXITSTATUS(status);
  return last;
}

// A hundred times at any moment of a commit: what was answered is there, without a hole, and nothing is twice.
TEST(SqliteCrashTest, WhatWasAnsweredSurvivesKill) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/jobs.sqlite";
  SubmitSample(**SqliteJobStore::Open({.path = path}), {.number = 1}, kImages);
  std::mt19937 random(1);
  int64_t after = 0;
  std::vector<bool> seen(kImages);
  for (int round = 0; round < 100; ++round) {
    const int64_t answered = RunAndKill(path, static_cast<int>(random() % 4), static_cast<int>(random() % 2'000));
    {
      auto connection = SqliteConnection::Open(path);
      TURBOFLEET_ASSERT_OK(connection);
      EXPECT_THAT((*connection)->ReadNumber("select count(*) from pragma_integrity_check where integrity_check = 'ok'"),
                  IsOkAndHolds(1));
      EXPECT_THAT((*connection)->ReadNumber("select count(*) from pragma_foreign_key_check"), IsOkAndHolds(0));
    }
    const auto store = SqliteJobStore::Open({.path = path});
    TURBOFLEET_ASSERT_OK(store);
    const JobRecord job = (*store)->Find(SampleId(1)).value();
    ASSERT_GE(job.LastSequence(), answered) << "round " << round;
    const auto results = (*store)->ReadResults(SampleId(1), after, kImages);
    TURBOFLEET_ASSERT_OK(results);
    for (const NumberedResult& result : *results) {
      ASSERT_EQ(result.sequence, ++after);
      ASSERT_FALSE(seen[result.result.index]) << result.result.index;
      seen[result.result.index] = true;
    }
    ASSERT_EQ(after, job.LastSequence());
  }
  EXPECT_GT(after, 500);
}

// A disk of its own: of memory, if this is root and mounts are allowed, else a limit of the store stands for it.
class FullDiskTest : public ::testing::Test {
 protected:
  static constexpr int64_t kDiskBytes = 8 << 20;

  FullDiskTest() {
    mounted_ = mount("turbofleet", folder_.path().c_str(), "tmpfs", 0, "size=8m") == 0;
    options_ = {.path = folder_.path() + "/jobs.sqlite", .bytes_max = mounted_ ? 0 : kDiskBytes};
  }
  ~FullDiskTest() override {
    if (mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }

  // Fills what is left, byte by byte.
  void Fill() {
    std::ofstream file(folder_.path() + "/filling");
    while (file.write(std::string(4'096, 'x').data(), 4'096).flush()) {
    }
  }
  void Empty() { std::filesystem::remove(folder_.path() + "/filling"); }

  TemporaryFolder folder_;
  bool mounted_ = false;
  SqliteJobStore::Options options_;
};

// In the middle of a transaction, by a limit that no other process can lift: none of it has happened.
TEST(FullStoreTest, TransactionThatDoesNotFitHasNotHappened) {
  const TemporaryFolder folder;
  auto store = SqliteJobStore::Open({.path = folder.path() + "/jobs.sqlite", .bytes_max = 1 << 20});
  TURBOFLEET_ASSERT_OK(store);
  SubmitSample(**store, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK((*store)->Claim(SampleId(1), 1));
  TURBOFLEET_ASSERT_OK((*store)->BeginDraft(MakeRecord({.number = 2})));
  const auto full = StatusIs(absl::StatusCode::kResourceExhausted);
  EXPECT_THAT((*store)->Transact([&] {
    TURBOFLEET_EXPECT_OK((*store)->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
    EXPECT_THAT((*store)->AppendPrompts(SampleId(2), {std::string(3'000'000, 'x')}), full);
    EXPECT_THAT((*store)->Commit(PicturesOf(SampleId(1), 0, {1}), At(1)), full);
    EXPECT_THAT((*store)->Find(SampleId(1)), full);
    return absl::OkStatus();
  }),
              full);
  EXPECT_EQ((*store)->Find(SampleId(1)).value().LastSequence(), 0);
  EXPECT_EQ((*store)->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)).value().sequences.front(), 1);
}

TEST_F(FullDiskTest, RefusesByNameKeepsWhatItHasAndRecovers) {
  auto store = SqliteJobStore::Open(options_);
  TURBOFLEET_ASSERT_OK(store);
  SubmitSample(**store, {.number = 1}, 900);
  TURBOFLEET_ASSERT_OK((*store)->Claim(SampleId(1), 1));
  TURBOFLEET_ASSERT_OK((*store)->BeginDraft(MakeRecord({.number = 2})));
  if (mounted_) Fill();

  // Until it is full.
  absl::Status status;
  int64_t prompts = 0;
  for (int i = 0; i < 40 && status.ok(); ++i) {
    status = (*store)->Transact([&] {
      TURBOFLEET_EXPECT_OK((*store)->Renew());
      (void)(*store)->AppendPrompts(SampleId(2), {std::string(500'000, 'x'), "y"});
      (void)(*store)->Commit(PicturesOf(SampleId(1), 0, {i}), At(1));
      return absl::OkStatus();
    });
    if (status.ok()) ++prompts;
  }
  ASSERT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
  // Nothing of the transaction that failed is there, and looking works.
  EXPECT_EQ((*store)->Find(SampleId(1)).value().LastSequence(), prompts);
  EXPECT_THAT((*store)->AppendPrompts(SampleId(2), {std::string(500'000, 'x')}),
              StatusIs(absl::StatusCode::kResourceExhausted));

  // Room comes back.
  if (mounted_) {
    Empty();
  } else {
    TURBOFLEET_ASSERT_OK((*store)->DropDraft(SampleId(2)));
  }
  const auto receipt = (*store)->Commit(PicturesOf(SampleId(1), 0, {100}), At(1));
  TURBOFLEET_ASSERT_OK(receipt);
  EXPECT_EQ(receipt->sequences.front(), prompts + 1);
  (*store)->Idle();
  store->reset();
  auto connection = SqliteConnection::Open(options_.path);
  TURBOFLEET_ASSERT_OK(connection);
  EXPECT_THAT((*connection)->ReadNumber("select count(*) from pragma_integrity_check where integrity_check = 'ok'"),
              IsOkAndHolds(1));
  connection->reset();
  store = SqliteJobStore::Open(options_);
  TURBOFLEET_ASSERT_OK(store);
  EXPECT_EQ((*store)->Find(SampleId(1)).value().LastSequence(), prompts + 1);
}

}  // namespace
}  // namespace turbofleet
