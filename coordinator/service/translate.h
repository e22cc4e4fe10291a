// From the dispatcher's messages to the protos.
#pragma once

#include <vector>

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/messages.h"
#include "turbofleet/internal/worker/v1/worker_service.pb.h"
#include "turbofleet/v1/cluster_service.pb.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet {

v1::GenerateImagesResponse AcceptedProto(const JobSpec& spec);
v1::GenerateImagesResponse ImageProto(const JobSpec& spec, FinishedImage image);
v1::GenerateImagesResponse FailureProto(const JobSpec& spec, const UnfinishedImage& image);

v1::Cluster ClusterProto(const ClusterState& state);
v1::Worker WorkerProto(const WorkerState& worker);

internal::worker::v1::SessionResponse WelcomeProto(const SessionTerms& terms);
internal::worker::v1::SessionResponse BatchProto(const BatchToRender& batch);
internal::worker::v1::SessionResponse AbandonProto(LeaseId lease, const std::vector<int32_t>& slots);

}  // namespace turbofleet
