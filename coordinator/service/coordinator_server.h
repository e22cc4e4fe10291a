// The gRPC side of the coordinator: both public services, the workers' service, health and reflection on one port.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/grpc_server.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/dispatch/result_reader.h"
#include "coordinator/service/rpc_observer.h"
#include "grpcpp/security/server_credentials.h"

namespace turbofleet {

// Thread-safe.
class CoordinatorServer {
 public:
  struct Options {
    std::string listen = "127.0.0.1:0";  // "HOST:PORT"; port 0 takes a free one.
    std::shared_ptr<grpc::ServerCredentials> credentials;
    GrpcServerLimits limits;
    std::string tenant_metadata{};  // See Tenants.
  };
  // What the services stand on; it outlives the server. Without a desk and reader there are no durable jobs.
  struct Parts {
    Dispatcher* dispatcher = nullptr;
    JobDesk* desk = nullptr;
    const ResultReader* reader = nullptr;
    RpcObserver* observer = nullptr;
  };

  // Serves from now on. UNAVAILABLE: the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(const Options& options, const Parts& parts);
  // Ends what is still open at once, unless Shutdown() has.
  virtual ~CoordinatorServer() = default;

  // The port that is bound.
  virtual int port() const = 0;

  // Tells those who ask for its health that it is not serving. Calls go on.
  virtual void SetNotServing() = 0;

  // Takes no new calls, waits until those that are open have ended, and cancels them after `grace`.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace turbofleet
