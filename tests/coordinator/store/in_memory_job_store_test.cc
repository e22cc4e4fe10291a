#include "coordinator/store/in_memory_job_store.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/conformance_test.h"
#include "tests/coordinator/store/in_memory_backend.h"
#include "tests/coordinator/store/store_samples.h"
#include "tests/support/simulated_clock.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {
namespace {

StoreKind Kind(bool shared) {
  return {.name = shared ? "InMemoryShared" : "InMemory",
          .create = [shared] { return std::make_unique<InMemoryBackend>(shared); }};
}

INSTANTIATE_TEST_SUITE_P(Store, JobStoreTest, ::testing::Values(Kind(false), Kind(true)), NameOfKind);
INSTANTIATE_TEST_SUITE_P(Store, SharedJobStoreTest, ::testing::Values(Kind(true)), NameOfKind);

class InMemoryDatabaseTest : public ::testing::Test {
 protected:
  SimulatedClock clock_;
  const std::shared_ptr<InMemoryDatabase> database_ = std::make_shared<InMemoryDatabase>(clock_, absl::Seconds(5));
  InMemoryJobStore store_{database_, {.incarnation = "1"}};
};

// What a power failure does to the tail that was not on the disk.
TEST_F(InMemoryDatabaseTest, RestoredDatabaseIsAsItWasWhenTheSnapshotWasTaken) {
  SubmitSample(store_, {.number = 1}, 5);
  TURBOFLEET_ASSERT_OK(store_.BeginDraft(MakeRecord({.number = 3})));
  TURBOFLEET_ASSERT_OK(store_.AppendPrompts(SampleId(3), MakePrompts(1)));
  TURBOFLEET_ASSERT_OK(store_.Claim(SampleId(1), 1));
  TURBOFLEET_ASSERT_OK(store_.Commit(PicturesOf(SampleId(1), 0, {0}), At(1)));
  const std::string before = ToText(store_.Find(SampleId(1)).value());
  InMemoryDatabase::State snapshot = database_->Snapshot();

  TURBOFLEET_ASSERT_OK(store_.Commit(PicturesOf(SampleId(1), 0, {1}), At(1)));
  TURBOFLEET_ASSERT_OK(store_.AppendPrompts(SampleId(3), MakePrompts(1)));
  TURBOFLEET_ASSERT_OK(store_.End(SampleId(1), JobState::kCancelled, At(2)));
  TURBOFLEET_ASSERT_OK(store_.Delete(SampleId(1)));
  SubmitSample(store_, {.number = 2});

  database_->Restore(std::move(snapshot));
  EXPECT_EQ(ToText(store_.Find(SampleId(1)).value()), before);
  EXPECT_THAT(store_.Find(SampleId(2)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(store_.Commit(PicturesOf(SampleId(1), 0, {1}), At(1)).value().sequences.front(), 2);
  EXPECT_EQ(store_.Submit(SampleId(3), "").value().spec->prompt_count, 1);
}

}  // namespace
}  // namespace turbofleet
