// What a store writes into its database inside of columns that no query looks into. The one place where durable jobs
// meet protobuf; proto/turbofleet/internal/store/v1/store.proto says what the bytes are.
//
// Decode functions return DATA_LOSS for bytes that no release of ours wrote. All functions are thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/store/job_spec.h"
#include "coordinator/store/results.h"

namespace turbofleet {

// All of a spec but its name, tenant and prompts, which have columns and tables of their own.
std::string EncodeJobSpec(const JobSpec& spec);
absl::StatusOr<JobSpec> DecodeJobSpec(absl::string_view bytes);

std::string EncodePrompts(absl::Span<const std::string> prompts);
absl::StatusOr<std::vector<std::string>> DecodePrompts(absl::string_view bytes);

std::string EncodeResults(absl::Span<const ImageResult> results);
absl::StatusOr<std::vector<ImageResult>> DecodeResults(absl::string_view bytes);

}  // namespace turbofleet
