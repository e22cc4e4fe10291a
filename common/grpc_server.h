// Settings that every gRPC listener and channel of ours shares, so that one hostile or broken peer costs little.
#pragma once

#include <cstdint>

#include "grpcpp/server_builder.h"
#include "grpcpp/support/channel_arguments.h"

namespace turbofleet {

struct GrpcServerLimits {
  int receive_bytes_max = 16 << 20;      // One message: an 8 MiB initial image beside 1,000 long prompts.
  int send_bytes_max = 16 << 20;         // One message.
  int64_t memory_bytes_max = 1ll << 30;  // All connections' buffers together.
  int threads_max = 64;                  // Of gRPC's own, all connections together.
  int streams_per_connection_max = 256;  // Further calls wait.
  int metadata_bytes_max = 16 << 10;     // Headers of one call.
  int keepalive_ms = 10'000;             // Silent peers are asked after this time ...
  int keepalive_timeout_ms = 5'000;      // ... and dropped when they do not answer within this.
  int ping_interval_ms_min = 2'000;      // Peers that ping more often are sent away.
};

// Applies the limits. Compression is refused: pictures do not shrink, and a small message can unpack to a huge one.
void ApplyServerLimits(const GrpcServerLimits& limits, grpc::ServerBuilder* builder);

// Arguments for channels to such a server: keepalive within the server's bounds, quick reconnects, the same message
// sizes.
grpc::ChannelArguments MakeChannelArguments(const GrpcServerLimits& limits = {});

}  // namespace turbofleet
