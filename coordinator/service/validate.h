// What comes from outside, checked against what the protos document. No gRPC, no state.
//
// Every error is INVALID_ARGUMENT and names the field. Those about a client's request carry INVALID_FIELD, those about
// a worker's message MALFORMED_MESSAGE.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/dispatch/messages.h"
#include "coordinator/scheduler/types.h"
#include "turbofleet/internal/worker/v1/worker_service.pb.h"
#include "turbofleet/v1/cluster_service.pb.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet {

inline constexpr int kPromptsMax = 1'000;
inline constexpr size_t kPromptBytesMax = 4'096;
inline constexpr size_t kInitImageBytesMax = 8 << 20;
inline constexpr size_t kImageBytesMax = (7 << 20) / 2;  // 3.5 MiB: gRPC's clients take 4 MiB unless told otherwise.
inline constexpr size_t kNameBytesMax = 128;
inline constexpr int kBatchImagesMax = 1'024;
inline constexpr int kReportLeasesMax = 1'024;
inline constexpr int kHeldImagesMax = 1'024;

// A request with every default that does not depend on the cluster filled in.
absl::StatusOr<JobRequest> ParseGenerateImagesRequest(const v1::GenerateImagesRequest& request);

// The same for the images of a durable job, whose prompts may all come later.
absl::StatusOr<JobRequest> ParseJobImages(const v1::GenerateImagesRequest& request);

// Text for the model: valid UTF-8 of at most kPromptBytesMax bytes.
absl::Status CheckText(const std::string& field, const std::string& text);

// A newer client may ask for what this release cannot do; to ignore that would be to give it something else.
absl::Status CheckUnknownFields(const google::protobuf::Message& message);

// The page size that a request gets: 0 is 100, more than 1,000 is 1,000. INVALID_FIELD if it is negative.
absl::StatusOr<int32_t> ParsePageSize(int32_t page_size);

absl::StatusOr<WorkerIdentity> ParseHello(const internal::worker::v1::Hello& hello);
// What the worker holds from earlier sessions.
absl::StatusOr<std::vector<HeldImage>> ParseHeld(const internal::worker::v1::Hello& hello);
absl::StatusOr<WorkerReport> ParseReport(const internal::worker::v1::Report& report);

// A picture whose file is too large for clients counts as an image that no worker can render (IMAGE_TOO_LARGE).
absl::StatusOr<RenderOutcome> ParseOutcome(internal::worker::v1::DeliverImagesRequest* request);

}  // namespace turbofleet
