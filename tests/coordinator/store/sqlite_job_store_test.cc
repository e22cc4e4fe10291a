#include "coordinator/store/sqlite_job_store.h"

#include <sqlite3.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/store/sqlite_connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<SqliteJobStore> OpenSqlite(const std::string& path) {
  absl::StatusOr<std::unique_ptr<SqliteJobStore>> store = SqliteJobStore::Open({.path = path});
  TURBOFLEET_EXPECT_OK(store);
  return store.ok() ? *std::move(store) : nullptr;
}

class SqliteBackend : public StoreBackend {
 public:
  std::unique_ptr<JobStore> Open(const std::string&) override { return OpenSqlite(folder_.path() + "/jobs.sqlite"); }

 private:
  const TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Store, JobStoreTest,
                         ::testing::Values(StoreKind{.name = "Sqlite",
                                                     .create = [] { return std::make_unique<SqliteBackend>(); }}),
                         NameOfKind);

class SqliteJobStoreTest : public ::testing::Test {
 protected:
  // Opens the file beside the store, which has to be closed: rows as texts, columns separated by "|".
  std::vector<std::string> Query(const std::string& sql) {
    sqlite3* database = nullptr;
    EXPECT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    std::vector<std::string> rows;
    EXPECT_EQ(sqlite3_exec(
                  database, sql.c_str(),
                  [](void* to, int count, char** values, char**) {
                    std::string row;
                    for (int i = 0; i < count; ++i) {
                      absl::StrAppend(&row, i == 0 ? "" : "|", values[i] == nullptr ? "null" : values[i]);
                    }
                    static_cast<std::vector<std::string>*>(to)->push_back(row);
                    return 0;
                  },
                  &rows, nullptr),
              SQLITE_OK)
        << sqlite3_errmsg(database);
    sqlite3_close(database);
    return rows;
  }

  const TemporaryFolder folder_;
  const std::string path_ = folder_.path() + "/jobs.sqlite";
};

TEST_F(SqliteJobStoreTest, FileIsHeldByOneStoreAtATime) {
  std::unique_ptr<SqliteJobStore> store = OpenSqlite(path_);
  EXPECT_THAT(SqliteJobStore::Open({.path = path_}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path_)));
  store.reset();
  EXPECT_NE(OpenSqlite(path_), nullptr);
}

TEST_F(SqliteJobStoreTest, FileOfANewerReleaseIsRefusedAndLeftAlone) {
  OpenSqlite(path_).reset();
  ASSERT_EQ(Query("pragma user_version"), std::vector<std::string>{"1"});
  Query("pragma user_version = 2");
  EXPECT_THAT(SqliteJobStore::Open({.path = path_}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("version 2")));
  EXPECT_EQ(Query("pragma user_version"), std::vector<std::string>{"2"});
}

TEST_F(SqliteJobStoreTest, FileOfAnotherProgramIsRefused) {
  Query("create table notes(text)");
  EXPECT_THAT(SqliteJobStore::Open({.path = path_}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another program")));
}

TEST_F(SqliteJobStoreTest, FileThatIsNoDatabaseIsDataLoss) {
  std::ofstream(path_) << std::string(10'000, 'x');
  EXPECT_THAT(SqliteJobStore::Open({.path = path_}), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(SqliteJobStoreTest, FolderThatIsNotThereIsNamed) {
  EXPECT_THAT(SqliteJobStore::Open({.path = folder_.path() + "/missing/jobs.sqlite"}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("missing/jobs.sqlite")));
}

// A page of the file is damaged while it is in use: an error, never a wrong answer.
TEST_F(SqliteJobStoreTest, DamagedSpecIsDataLoss) {
  {
    const auto store = OpenSqlite(path_);
    SubmitSample(*store, {.number = 1});
  }
  Query("update job set spec = x'ff'");
  EXPECT_THAT(OpenSqlite(path_)->Find(SampleId(1)), StatusIs(absl::StatusCode::kDataLoss));
}

// The log may grow to 16 MiB before its pages move into the file, and is emptied when there is time.
TEST_F(SqliteJobStoreTest, LogStaysSmallAndIsEmptiedWhenIdle) {
  const auto store = OpenSqlite(path_);
  TURBOFLEET_ASSERT_OK(store->BeginDraft(MakeRecord({.number = 1})));
  const std::vector<std::string> prompts(1, std::string(3'000'000, 'x'));
  for (int i = 0; i < 20; ++i) {
    TURBOFLEET_ASSERT_OK(store->AppendPrompts(SampleId(1), prompts));
    EXPECT_LT(std::filesystem::file_size(path_ + "-wal"), 20U << 20);
  }
  EXPECT_GT(std::filesystem::file_size(path_), 40U << 20);
  EXPECT_GT(std::filesystem::file_size(path_ + "-wal"), 0U);
  store->Idle();
  EXPECT_EQ(std::filesystem::file_size(path_ + "-wal"), 0U);
}

// Ten thousand jobs must not make a look at one of them slow: no query reads a whole table, or sorts.
TEST_F(SqliteJobStoreTest, QueriesUseIndexes) {
  OpenSqlite(path_).reset();
  const std::vector<std::string> queries = {
      "select id from job where state > 0 and tenant = 'a' and create_time <= 1 and (create_time < 1 or id > '') "
      "and (0 = 0 or state = 1) order by create_time desc, id",
      "select id from job where state > 0 and create_time <= 1 and (create_time < 1 or id > '') and (0 = 0 or "
      "state = 1) order by create_time desc, id",
      "select id from job where state = 1 and id > '' order by id",
      "select id from job where delete_time is not null and delete_time <= 1 order by delete_time, id",
      "select first, prompts from prompt where job = '' and first > 1 and first < 5 and first + count > 2 order by "
      "first",
      "select first_sequence, results from result where job = '' and last_sequence > 1 order by last_sequence",
      "select first_sequence, results from result where job = '' and shard = 1",
      "select number, ended from shard where job = '' and state = 0 order by number limit 1",
      "select name from pack where job = '' and last_sequence <= 1",
      "delete from result where job = '' and last_sequence <= 1",
      "update job set state = -1 where state = 0",
      "select id, state, released from job where garbage = 1 limit 1",
      "update shard set state = 0 where state = 1",
      "select 1 from job where init_image = '' and init_image <> ''",
      "select job.id from job, job draft where draft.id = '' and job.state > 0 and job.request_id <> '' and "
      "job.tenant = draft.tenant and job.request_id = draft.request_id",
  };
  for (const std::string& query : queries) {
    for (const std::string& step : Query("explain query plan " + query)) {
      EXPECT_FALSE(absl::StrContains(step, "SCAN") && !absl::StrContains(step, "INDEX")) << query << ": " << step;
      EXPECT_FALSE(absl::StrContains(step, "TEMP B-TREE")) << query << ": " << step;
    }
  }
  // Usage looks at every job, in the order of an index.
  for (const std::string& step : Query("explain query plan select tenant, count(*), sum(bytes_retained) from job "
                                       "where state > 0 group by tenant")) {
    EXPECT_FALSE(absl::StrContains(step, "TEMP B-TREE")) << step;
  }
}

// What nobody needs any more goes in small parts, with later calls or when there is time.
TEST_F(SqliteJobStoreTest, RowsOfReleasedResultsDeletedJobsAndDraftsGo) {
  {
    const auto store = OpenSqlite(path_);
    CommitOneByOne(*store, 1, 1'300);
    CommitOneByOne(*store, 2, 1'300);
    TURBOFLEET_ASSERT_OK(store->ReleaseResults(SampleId(1), 1'100));
    TURBOFLEET_ASSERT_OK(store->End(SampleId(2), JobState::kCancelled, At(2)));
    TURBOFLEET_ASSERT_OK(store->Delete(SampleId(2)));
    TURBOFLEET_ASSERT_OK(store->BeginDraft(MakeRecord({.number = 3, .labels = {{"a", "b"}}})));
    TURBOFLEET_ASSERT_OK(store->Transact([&store] {
      for (int i = 0; i < 20; ++i) TURBOFLEET_EXPECT_OK(store->AppendPrompts(SampleId(3), {"x"}));
      return absl::OkStatus();
    }));
  }
  EXPECT_EQ(Query("select count(*) > 0 from result where job = '" + SampleId(2) + "'"), std::vector<std::string>{"1"});
  {
    const auto store = OpenSqlite(path_);
    int calls = 0;
    while (store->Idle()) ASSERT_LT(++calls, 20);
    EXPECT_GT(calls, 0);
    EXPECT_EQ(store->ReadResults(SampleId(1), 1'100, 1'000).value().size(), 200U);
  }
  EXPECT_EQ(Query("select id from job"), std::vector<std::string>{SampleId(1)});
  EXPECT_EQ(Query("select job, count(*), min(last_sequence) from result group by job"),
            std::vector<std::string>{SampleId(1) + "|200|1101"});
  EXPECT_EQ(Query("select job, count(*) from prompt group by job"), std::vector<std::string>{SampleId(1) + "|2"});
  for (const char* table : {"label", "pack"}) {
    EXPECT_TRUE(Query(absl::StrCat("select 1 from ", table, " where job <> '", SampleId(1), "'")).empty()) << table;
  }
}

// FULL is what survives a loss of power, which no test can cause; and nobody but us moves the log into the file.
TEST_F(SqliteJobStoreTest, ConnectionIsSetUpForDurability) {
  const auto connection = SqliteConnection::Open(path_);
  TURBOFLEET_ASSERT_OK(connection);
  const std::vector<std::pair<std::string, int64_t>> settings = {{"synchronous", 2},    {"wal_autocheckpoint", 0},
                                                                 {"busy_timeout", 0},   {"foreign_keys", 1},
                                                                 {"trusted_schema", 0}, {"cell_size_check", 1}};
  for (const auto& [name, value] : settings) {
    EXPECT_THAT((*connection)->ReadNumber("pragma " + name), IsOkAndHolds(value)) << name;
  }
}

TEST_F(SqliteJobStoreTest, TablesAreStrictAndChecked) {
  OpenSqlite(path_).reset();
  EXPECT_EQ(Query("pragma integrity_check"), std::vector<std::string>{"ok"});
  EXPECT_EQ(Query("pragma journal_mode"), std::vector<std::string>{"wal"});
  EXPECT_EQ(Query("pragma application_id"), std::vector<std::string>{absl::StrCat(0x54464c54)});
  EXPECT_TRUE(Query("select name from pragma_table_list where schema = 'main' and type = 'table' and strict = 0 and "
                    "name not like 'sqlite_%'")
                  .empty());
}

}  // namespace
}  // namespace turbofleet
