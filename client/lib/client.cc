#include "turbofleet/client.h"

#include <utility>

#include "client/lib/connection.h"
#include "common/address.h"
#include "common/credentials.h"
#include "common/status.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/channel_arguments.h"

namespace turbofleet::client {
namespace {

// An image has up to 3.5 MiB, and 4 MiB, gRPC's default, leave little for what the protocol may grow by.
constexpr int kMessageBytesMax = 16 << 20;
constexpr int kReconnectMsMax = 5'000;

// gRPC targets with a scheme are gRPC's to judge; it knows several, and programs may add some.
bool HasScheme(const std::string& target) {
  return target.rfind("unix:", 0) == 0 || target.find("://") != std::string::npos || target.rfind("dns:", 0) == 0;
}

grpc::ChannelArguments ChannelArgumentsOfOurs() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  // Finds out within a minute that the other machine is gone, while a call is waiting.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 40'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // The back-off between tries is ours; the channel's own must not keep a coordinator that is back out of sight.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // By its name a back-off, in fact how long one connection attempt may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return arguments;
}

}  // namespace

absl::StatusOr<Client> Client::Connect(const ClientOptions& options) {
  if (!HasScheme(options.coordinator)) {
    TURBOFLEET_RETURN_IF_ERROR(ParseHostPort("coordinator", options.coordinator).status());
  }
  TURBOFLEET_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials,
                              MakeChannelCredentials({.certificate = options.security.certificate,
                                                      .key = options.security.key,
                                                      .authority = options.security.authority,
                                                      .insecure = options.security.insecure},
                                                     options.coordinator));
  return Client(MakeConnection(grpc::CreateCustomChannel(options.coordinator, credentials, ChannelArgumentsOfOurs()),
                               options.retry));
}

Client::Client(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::Status Client::GenerateImages(const GenerateRequest& request, const GenerateOptions& options,
                                    const std::function<void(GenerateEvent event)>& on_event) {
  return connection_->GenerateImages(request, options, on_event);
}

absl::StatusOr<Job> Client::CreateJob(const JobRequest& request, const JobOptions& options) {
  return connection_->CreateJob(request, options);
}

absl::StatusOr<Job> Client::GetJob(const std::string& name, const JobOptions& options) {
  return connection_->GetJob(name, options);
}

absl::StatusOr<JobPage> Client::ListJobsPage(const JobFilter& filter, int32_t page_size, const std::string& page_token,
                                             const JobOptions& options) {
  return connection_->ListJobsPage(filter, page_size, page_token, options);
}

absl::StatusOr<std::vector<Job>> Client::ListJobs(const JobFilter& filter, const JobOptions& options) {
  return connection_->ListJobs(filter, options);
}

absl::Status Client::WatchJob(const WatchRequest& request, const WatchOptions& options,
                              const std::function<void(WatchEvent event)>& on_event) {
  return connection_->WatchJob(request, options, on_event);
}

absl::StatusOr<Job> Client::ReleaseImages(const std::string& name, const std::string& resume_token,
                                          const JobOptions& options) {
  return connection_->ReleaseImages(name, resume_token, options);
}

absl::StatusOr<Job> Client::CancelJob(const std::string& name, const JobOptions& options) {
  return connection_->CancelJob(name, options);
}

absl::Status Client::DeleteJob(const std::string& name, const JobOptions& options) {
  return connection_->DeleteJob(name, options);
}

absl::StatusOr<ClusterState> Client::GetCluster(const LookOptions& options) { return connection_->GetCluster(options); }

absl::StatusOr<std::vector<WorkerState>> Client::ListWorkers(const LookOptions& options) {
  return connection_->ListWorkers(options);
}

}  // namespace turbofleet::client
