#include "coordinator/store/postgres_job_store.h"

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "coordinator/store/postgres_connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/postgres_server.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One for the whole program, which starts it with its first test.
PostgresServer& Server() {
  static PostgresServer server(/*durable=*/false);
  return server;
}

// A schema of its own.
class PostgresBackend : public StoreBackend {
 public:
  PostgresBackend() {
    static int schemas = 0;
    schema_ = absl::StrCat("test_", ++schemas);
  }
  ~PostgresBackend() override { Execute(absl::StrCat("drop schema if exists ", schema_, " cascade")); }

  PostgresJobStore::Options OptionsOf(const std::string& coordinator) {
    static int lives = 0;
    return {.conninfo = Server().conninfo(),
            .schema = schema_,
            .coordinator = coordinator,
            .incarnation = absl::StrCat("life ", ++lives)};
  }
  std::unique_ptr<PostgresJobStore> OpenPostgres(const PostgresJobStore::Options& options) {
    absl::StatusOr<std::unique_ptr<PostgresJobStore>> store = PostgresJobStore::Open(options);
    TURBOFLEET_EXPECT_OK(store);
    return store.ok() ? *std::move(store) : nullptr;
  }
  std::unique_ptr<JobStore> Open(const std::string& coordinator) override {
    return OpenPostgres(OptionsOf(coordinator));
  }
  // The server's clock is nobody's to set.
  void LapseLeases() override { Execute("update coordinator set lease_end = '-infinity'"); }

  // A session beside the store's, that runs `sql` first.
  absl::StatusOr<std::unique_ptr<PostgresConnection>> Connect(const std::string& sql) {
    return PostgresConnection::Open(Server().conninfo(), absl::StrCat("set search_path to ", schema_, "; ", sql),
                                    absl::Seconds(30));
  }
  void Execute(const std::string& sql) { TURBOFLEET_EXPECT_OK(Connect(sql)); }

 private:
  std::string schema_;
};

const StoreKind kPostgres = {.name = "Postgres", .create = [] { return std::make_unique<PostgresBackend>(); }};

INSTANTIATE_TEST_SUITE_P(Store, JobStoreTest, ::testing::Values(kPostgres), NameOfKind);
INSTANTIATE_TEST_SUITE_P(Store, SharedJobStoreTest, ::testing::Values(kPostgres), NameOfKind);

class PostgresJobStoreTest : public ::testing::Test {
 protected:
  PostgresBackend backend_;
};

TEST_F(PostgresJobStoreTest, SchemaOfANewerReleaseIsRefused) {
  backend_.Open("anna").reset();
  backend_.Execute("insert into migration values (2)");
  EXPECT_THAT(PostgresJobStore::Open(backend_.OptionsOf("anna")),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("version 2")));
}

TEST_F(PostgresJobStoreTest, SchemaNameIsAnIdentifier) {
  const std::vector<std::string> names = {"", "1a", "A", "a-b", "a; drop schema public", std::string(64, 'a')};
  for (const std::string& name : names) {
    PostgresJobStore::Options options = backend_.OptionsOf("anna");
    options.schema = name;
    EXPECT_THAT(PostgresJobStore::Open(options), StatusIs(absl::StatusCode::kInvalidArgument)) << name;
  }
}

TEST_F(PostgresJobStoreTest, ServerThatIsNotThereIsUnavailable) {
  PostgresJobStore::Options options = backend_.OptionsOf("anna");
  options.conninfo = "host=/nowhere user=turbofleet";
  EXPECT_THAT(PostgresJobStore::Open(options), StatusIs(absl::StatusCode::kUnavailable));
}

// Two coordinators that start at once make the tables once.
TEST_F(PostgresJobStoreTest, MigrationsDoNotMeet) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this, options = backend_.OptionsOf(absl::StrCat("coordinator-", i))] {
      EXPECT_NE(backend_.OpenPostgres(options), nullptr);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The rows of a dead session are free at once, and the next call makes a new one.
TEST_F(PostgresJobStoreTest, LostConnectionIsMadeAgain) {
  const auto store = backend_.Open("anna");
  SubmitSample(*store, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(store->Claim(SampleId(1), 1));
  TURBOFLEET_ASSERT_OK(store->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
  for (const int signal : {SIGINT, SIGQUIT}) {
    Server().Stop(signal);
    EXPECT_THAT(store->Commit(PicturesOf(SampleId(1), 0, {1}), At(1)), StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(store->Find(SampleId(1)), StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(store->Transact([&] { return store->Find(SampleId(1)).status(); }),
                StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(store->Renew(), StatusIs(absl::StatusCode::kUnavailable));
    Server().Start();
    TURBOFLEET_EXPECT_OK(store->Renew());
  }
  EXPECT_THAT(store->Commit(PicturesOf(SampleId(1), 0, {1, 0}), At(1)).value().sequences, ElementsAre(2, 0));
}

// In the middle of a transaction: nothing of it has happened.
TEST_F(PostgresJobStoreTest, ServerThatStopsInTheMiddleOfATransactionUndoesIt) {
  const auto store = backend_.Open("anna");
  SubmitSample(*store, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(store->Claim(SampleId(1), 1));
  const absl::Status status = store->Transact([&] {
    TURBOFLEET_EXPECT_OK(store->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
    TURBOFLEET_EXPECT_OK(store->Find(SampleId(1)));  // It has arrived.
    Server().Stop(SIGQUIT);
    Server().Start();
    EXPECT_THAT(store->Commit(PicturesOf(SampleId(1), 0, {1}), At(1)), StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(store->Find(SampleId(1)), StatusIs(absl::StatusCode::kUnavailable));
    return absl::OkStatus();
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(store->Find(SampleId(1)).value().LastSequence(), 0);
  EXPECT_THAT(store->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)).value().sequences, ElementsAre(1));
}

TEST_F(PostgresJobStoreTest, SilentServerIsUnavailable) {
  PostgresJobStore::Options options = backend_.OptionsOf("anna");
  options.reply_timeout = absl::Seconds(1);
  const auto store = backend_.OpenPostgres(options);
  SubmitSample(*store, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(store->Claim(SampleId(1), 1));
  Server().SignalAll(SIGSTOP);
  EXPECT_THAT(store->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(store->Renew(), StatusIs(absl::StatusCode::kUnavailable));
  Server().SignalAll(SIGCONT);
  TURBOFLEET_EXPECT_OK(store->Renew());
}

// A coordinator that is paused while it changes something: it loses the change, and those that wait for it go on.
TEST_F(PostgresJobStoreTest, PausedTransactionIsEndedAndItsCoordinatorIsFenced) {
  PostgresJobStore::Options options = backend_.OptionsOf("anna");
  options.idle_timeout = absl::Seconds(1);
  const auto paused = backend_.OpenPostgres(options);
  const auto other = backend_.Open("bert");
  SubmitSample(*other, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(paused->Claim(SampleId(1), 1));
  const absl::Status status = paused->Transact([&] {
    TURBOFLEET_EXPECT_OK(paused->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
    TURBOFLEET_EXPECT_OK(paused->Find(SampleId(1)));
    backend_.LapseLeases();  // Waits, as anna's row is held, until the server ends that.
    TURBOFLEET_EXPECT_OK(other->Renew());
    EXPECT_THAT(other->TakeOverFromDead(), IsOkAndHolds(1));
    return absl::OkStatus();
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(paused->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)), StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(other->Find(SampleId(1)).value().LastSequence(), 0);
}

// Whoever takes over waits for a change that has passed the fence, so that a result is either there or fenced.
TEST_F(PostgresJobStoreTest, TakeOverWaitsForTheCommitInFlight) {
  const auto committer = backend_.Open("anna");
  const auto other = backend_.Open("bert");
  SubmitSample(*other, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(committer->Claim(SampleId(1), 1));
  backend_.LapseLeases();
  TURBOFLEET_ASSERT_OK(other->Renew());
  std::thread taker;
  absl::Notification taken;
  TURBOFLEET_EXPECT_OK(committer->Transact([&] {
    TURBOFLEET_EXPECT_OK(committer->Find(SampleId(1)));
    taker = std::thread([&] {
      EXPECT_THAT(other->TakeOverFromDead(), IsOkAndHolds(1));
      taken.Notify();
    });
    EXPECT_FALSE(taken.WaitForNotificationWithTimeout(absl::Milliseconds(200)));
    TURBOFLEET_EXPECT_OK(committer->Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
    return absl::OkStatus();
  }));
  taker.join();
  const auto claimed = other->Claim(SampleId(1), 1);
  TURBOFLEET_ASSERT_OK(claimed);
  EXPECT_THAT(claimed->front().ended, ElementsAre(0));
}

// Where indexes exist, nothing is read in full or sorted; small tables would be, as that is quicker.
TEST_F(PostgresJobStoreTest, QueriesUseIndexes) {
  backend_.Open("anna").reset();
  const auto connection = backend_.Connect("set enable_seqscan = off; set enable_sort = off; ");
  TURBOFLEET_ASSERT_OK(connection);
  for (
      const char* query : {
          "explain select id from job where state > 0 and tenant = 'a' and create_time <= 1 and (create_time < 1 or id "
          "> '') and (0 = 0 or state = 1) order by create_time desc, id limit 5",
          "explain select id from job where state > 0 and create_time <= 1 and (create_time < 1 or id > '') and (0 = 0 "
          "or state = 1) order by create_time desc, id limit 5",
          "explain select id from job where state = 1 and id > '' order by id limit 5",
          "explain select id from job where delete_time is not null and delete_time <= 1 order by delete_time, id",
          "explain select first from prompt where job = '' and first > 1 and first < 5 and first + count > 2",
          "explain select results from result where job = '' and last_sequence > 1 and last_sequence < 9",
          "explain select results from result where job = '' and shard = 1",
          "explain select number from shard where job = '' and owner is null order by number limit 1",
          "explain select 1 from shard where owner = any('{a,b}') and not done",
          "explain select 1 from job where state = 0 and draft_of = any('{a,b}')",
          "explain select id from job where garbage order by id limit 1",
          "explain select 1 from job where init_image = 'a' and init_image <> ''",
          "explain select 1 from job where tenant = '' and request_id = 'r' and state > 0 and request_id <> ''",
      }) {
    const auto plan = (*connection)->Run(query);
    TURBOFLEET_ASSERT_OK(plan);
    for (int i = 0; i < plan->count(); ++i) {
      EXPECT_THAT(plan->Text(i, 0), ::testing::Not(::testing::ContainsRegex("Seq Scan|Sort"))) << query;
    }
  }
}

// Of statements that travel together those after an error are not run, nor prepared.
TEST_F(PostgresJobStoreTest, ConnectionGoesOnAfterAnError) {
  const auto connection = PostgresConnection::Open(Server().conninfo(), "select 1", absl::Seconds(30));
  TURBOFLEET_ASSERT_OK(connection);
  (*connection)->Queue("select 1 / $1", PostgresValues().Number(0));
  EXPECT_THAT((*connection)->Run("select -7::int4, $1, $2", PostgresValues().OptionalNumber({}).Bytes("a")),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("division by zero")));
  EXPECT_FALSE((*connection)->broken());
  const auto rows =
      (*connection)->Run("select -7::int4, $1, $2", PostgresValues().OptionalNumber({}).Bytes(std::string("a\0b", 3)));
  TURBOFLEET_ASSERT_OK(rows);
  ASSERT_EQ(rows->count(), 1);
  EXPECT_EQ(rows->Number(0, 0), -7);
  EXPECT_TRUE(rows->IsNull(0, 1));
  EXPECT_EQ(rows->Text(0, 2), std::string("a\0b", 3));
}

// What nobody needs any more goes in small parts, with later calls or when there is time.
TEST_F(PostgresJobStoreTest, RowsOfReleasedResultsDeletedJobsAndDraftsGo) {
  const auto store = backend_.Open("anna");
  CommitOneByOne(*store, 1, 1'300);
  CommitOneByOne(*store, 2, 1'300);
  TURBOFLEET_ASSERT_OK(store->ReleaseResults(SampleId(1), 1'100));
  TURBOFLEET_ASSERT_OK(store->End(SampleId(2), JobState::kCancelled, At(2)));
  TURBOFLEET_ASSERT_OK(store->Delete(SampleId(2)));
  TURBOFLEET_ASSERT_OK(store->BeginDraft(MakeRecord({.number = 3})));
  TURBOFLEET_ASSERT_OK(store->DropDraft(SampleId(3)));
  int calls = 0;
  while (store->Idle()) ASSERT_LT(++calls, 20);
  EXPECT_GT(calls, 0);
  EXPECT_EQ(store->ReadResults(SampleId(1), 1'100, 1'000).value().size(), 200U);
  // Fails with a division by zero if there are more.
  const std::string other = absl::StrCat(" <> '", SampleId(1), "'");
  for (const char* table : {"result", "prompt", "pack", "label", "shard"}) {
    backend_.Execute(absl::StrCat("select 1 / (count(*) = 0)::int from ", table, " where job", other));
  }
  backend_.Execute(absl::StrCat("select 1 / (count(*) = 0)::int from job where id", other));
  backend_.Execute("select 1 / (count(*) = 200)::int from result");
}

// Four coordinators claim and commit the same jobs at once, in groups and in any order: all images end once.
TEST_F(PostgresJobStoreTest, CoordinatorsWorkAtTheSameTime) {
  constexpr int32_t kImages = 20'000;
  std::vector<std::unique_ptr<JobStore>> stores;
  for (int i = 0; i < 4; ++i) stores.push_back(backend_.Open(absl::StrCat("coordinator-", i)));
  for (const int number : {1, 2}) SubmitSample(*stores[0], {.number = number}, kImages);
  std::vector<std::thread> threads;
  std::atomic<int64_t> committed = 0;
  for (size_t i = 0; i < stores.size(); ++i) {
    threads.emplace_back([&, i] {
      JobStore& store = *stores[i];
      while (true) {
        std::vector<ShardResults> all;
        for (const int number : i % 2 == 0 ? std::vector{1, 2} : std::vector{2, 1}) {
          const auto claimed = store.Claim(SampleId(number), 2);
          if (absl::IsNotFound(claimed.status())) continue;
          TURBOFLEET_ASSERT_OK(claimed);
          for (const ClaimedShard& shard : *claimed) {
            ShardResults results = {.job = SampleId(number), .shard = shard.number};
            for (int32_t image = 0; image < shard.count; ++image) {
              results.results.push_back(MakePicture(shard.first + image));
            }
            all.push_back(std::move(results));
          }
        }
        if (all.empty()) return;
        const auto receipts = store.CommitAll(all, At(1));
        TURBOFLEET_ASSERT_OK(receipts);
        for (const auto& receipt : *receipts) {
          TURBOFLEET_ASSERT_OK(receipt);
          committed += static_cast<int64_t>(receipt->sequences.size());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(committed, 2 * kImages);
  for (const int number : {1, 2}) {
    EXPECT_EQ(stores[0]->Find(SampleId(number)).value().state, JobState::kCompleted);
    const auto results = stores[0]->ReadResults(SampleId(number), 0, 2 * kImages);
    TURBOFLEET_ASSERT_OK(results);
    std::vector<bool> seen(kImages);
    int64_t sequence = 0;
    for (const NumberedResult& result : *results) {
      EXPECT_EQ(result.sequence, ++sequence);
      EXPECT_FALSE(seen[result.result.index]);
      seen[result.result.index] = true;
    }
    EXPECT_EQ(sequence, kImages);
  }
}

}  // namespace
}  // namespace turbofleet
