// From rows to calls.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/batch_input.h"
#include "client/cli/output_folder.h"
#include "client/cli/runner.h"

namespace turbofleet::cli {

struct BatchPlan {
  std::vector<Call> calls;
  int64_t images = 0;   // Of all calls.
  int64_t earlier = 0;  // Pictures that the folder has already.
};

// The limits of one call.
struct CallLimits {
  size_t prompts_max = 1000;
  int64_t images_max = 4000;           // A row with more becomes several calls.
  int64_t prompt_bytes_max = 2 << 20;  // The whole request has to fit into a message.
};

// Puts rows that differ in their prompt alone into common calls, in the order of the input, and leaves out what the
// folder has from an earlier run. A row has at most 1,000,000 images. Rows without a seed take `default_seed`. What is
// wrong with a row goes to `on_row_error`, whose error ends it all.
absl::StatusOr<BatchPlan> PlanBatch(
    const std::vector<Row>& rows, uint64_t default_seed, int32_t default_count, const CallLimits& limits,
    OutputFolder* folder, const std::function<absl::Status(const Row& row, const absl::Status& error)>& on_row_error);

}  // namespace turbofleet::cli
