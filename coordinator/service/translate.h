// From the dispatcher's messages to the protos.
#pragma once

#include <vector>

#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/dispatch/messages.h"
#include "turbofleet/internal/worker/v1/worker_service.pb.h"
#include "turbofleet/v1/cluster_service.pb.h"
#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet {

// With at most `seeds_max` seeds.
v1::Accepted AcceptedProto(const JobSpec& spec, int32_t seeds_max);
v1::Image ImageProto(const JobSpec& spec, FinishedImage image);
v1::ImageFailure FailureProto(const JobSpec& spec, const UnfinishedImage& image);
v1::Job JobProto(const JobView& job);

v1::Cluster ClusterProto(const ClusterState& state);
v1::Worker WorkerProto(const WorkerState& worker);

internal::worker::v1::SessionResponse WelcomeProto(const SessionTerms& terms);
internal::worker::v1::SessionResponse BatchProto(const BatchToRender& batch);
internal::worker::v1::SessionResponse AbandonProto(LeaseId lease, const std::vector<int32_t>& slots);

}  // namespace turbofleet
