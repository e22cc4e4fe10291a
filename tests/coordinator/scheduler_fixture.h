// Words that the scheduler's tests share.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler/scheduler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {

inline constexpr JobId kJob{7};
inline constexpr JobId kLaterJob{9};
inline constexpr SessionId kAnna{1};
inline constexpr SessionId kBert{2};
inline constexpr SessionId kCleo{3};
inline constexpr char kModel[] = "sha256:a";

inline absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

inline BatchShape Square(int32_t side = 64, int32_t steps = 1) {
  return {.width = side, .height = side, .steps = steps};
}

inline JobPlacement JobOf(JobId id, int32_t images, BatchShape shape = Square()) {
  return {.id = id, .model_digest = kModel, .shape = shape, .image_count = images, .prompt_bytes = 10};
}

inline WorkerCapacity Worker(int32_t batch_images_max = 8) {
  return {.model_digest = kModel, .size_max = 1024, .batch_images_max = batch_images_max, .has_tiny_vae = true};
}

inline std::vector<ImageId> Images(JobId job, int32_t first, int32_t last) {
  std::vector<ImageId> images;
  for (int32_t index = first; index <= last; ++index) images.push_back({job, index});
  return images;
}

inline auto Refuses(const std::string& limit) {
  return ::testing::Optional(::testing::VariantWith<LimitReached>(::testing::Field(&LimitReached::name, limit)));
}

class SchedulerFixture : public ::testing::Test {
 protected:
  // A worker that grants `credit` batches, having had none.
  void Join(Scheduler& scheduler, SessionId id, int64_t credit, WorkerCapacity capacity = Worker(),
            absl::Time now = At(0)) {
    scheduler.OpenSession(id, capacity, now);
    TURBOFLEET_ASSERT_OK(scheduler.Report(id, {.batches_taken_max = credit}, now, &effects_));
  }

  void ExpectLoad(const Scheduler& scheduler, int64_t jobs, int64_t queued, int64_t leased) {
    const SchedulerLoad load = scheduler.Load(At(1'000));
    EXPECT_EQ(load.jobs, jobs);
    EXPECT_EQ(load.images_queued, queued);
    EXPECT_EQ(load.images_leased, leased);
  }

  Effects effects_;
};

}  // namespace turbofleet
