// One GenerateImages call with all its tries.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/lib/connection.h"
#include "client/lib/missing_images.h"
#include "client/lib/retrier.h"
#include "client/lib/stub.h"

namespace turbofleet::client {

// Thread-compatible; used once.
//
// Once the coordinator has admitted the request, every default that it filled in is pinned, so that what is asked for
// again after a broken stream gives the same pictures.
class GenerateCall {
 public:
  // All arguments outlive the call.
  GenerateCall(const Connection::Dependencies& dependencies, const RetryPolicy& policy, const GenerateRequest& request,
               const GenerateOptions& options, const std::function<void(GenerateEvent event)>& on_event);

  absl::Status Run();

 private:
  // Asks for everything that is missing, once.
  absl::Status Try();
  absl::Status TryGroup(const v1::GenerateImagesRequest& request, const ImageGroup* group);

  absl::Status OnResponse(const ImageGroup* group, v1::GenerateImagesResponse* response);
  absl::Status OnAccepted(const v1::Accepted& accepted);
  // Where an image of the group stands in the first request. INTERNAL: nowhere, or it has ended before.
  absl::StatusOr<int64_t> EndImage(const ImageGroup* group, int64_t index, uint64_t seed);

  v1::GenerateImagesRequest RequestFor(const ImageGroup& group) const;

  Stub& stub_;
  Retrier retrier_;
  const std::function<void(GenerateEvent event)>& on_event_;

  v1::GenerateImagesRequest request_;  // Pinned once accepted_ is set.
  std::optional<Accepted> accepted_;
  std::optional<MissingImages> missing_;  // Set with accepted_.
  std::string job_;                       // Of the current try.
  bool stream_accepted_ = false;          // Of the current try.
};

}  // namespace turbofleet::client
