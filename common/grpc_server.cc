#include "common/grpc_server.h"

#include "grpc/compression.h"
#include "grpcpp/resource_quota.h"

namespace turbofleet {
namespace {

constexpr int kReconnectMsMin = 100;
constexpr int kReconnectMsMax = 2'000;

}  // namespace

void ApplyServerLimits(const GrpcServerLimits& limits, grpc::ServerBuilder* builder) {
  grpc::ResourceQuota quota("turbofleet");
  quota.Resize(static_cast<size_t>(limits.memory_bytes_max));
  quota.SetMaxThreads(limits.threads_max);
  builder->SetResourceQuota(quota);
  builder->SetMaxReceiveMessageSize(limits.receive_bytes_max);
  builder->SetMaxSendMessageSize(limits.send_bytes_max);
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.streams_per_connection_max);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits.metadata_bytes_max);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, limits.keepalive_ms);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, limits.keepalive_timeout_ms);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // The default of five minutes would send away every peer that uses keepalive.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, limits.ping_interval_ms_min);
  // Two servers on one port would each get half of the connections.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

grpc::ChannelArguments MakeChannelArguments(const GrpcServerLimits& limits) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(limits.send_bytes_max);
  arguments.SetMaxSendMessageSize(limits.receive_bytes_max);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, limits.keepalive_ms);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, limits.keepalive_timeout_ms);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  return arguments;
}

}  // namespace turbofleet
