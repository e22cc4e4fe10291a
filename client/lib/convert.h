// Between the plain types of the public headers and the protos.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "turbofleet/cluster.h"
#include "turbofleet/generate.h"
#include "turbofleet/v1/cluster_service.pb.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet::client {

v1::GenerateImagesRequest ToProto(const GenerateRequest& request);
v1::GenerateImagesRequest WithoutPromptsToProto(const GenerateRequest& request);

absl::Duration FromProto(const google::protobuf::Duration& duration);
absl::Time FromProto(const google::protobuf::Timestamp& time);
Accepted FromProto(const v1::Accepted& accepted);
ImageFailure FromProto(const v1::ImageFailure& failure);
ClusterState FromProto(const v1::Cluster& cluster);
WorkerState FromProto(const v1::Worker& worker);

// Moves the content out of `image`. INTERNAL: a file format that this library does not know.
absl::StatusOr<Image> TakeFromProto(v1::Image* image);

}  // namespace turbofleet::client
