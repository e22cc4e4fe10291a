// The C++ client of a Turbofleet cluster.
//
//   auto client = turbofleet::Client::Connect({.coordinator = "localhost:50051"});
//   absl::Status status = client->GenerateImages({.prompts = {"a red circle"}, .seed = 1}, {}, [](auto event) {
//     if (auto* image = std::get_if<turbofleet::client::Image>(&event)) Save(image->content);
//   });
//
// Structs of options are meant for designated initialisers: each field has its default, so that a compiler does not
// warn of those that are left out.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "turbofleet/cluster.h"
#include "turbofleet/errors.h"
#include "turbofleet/generate.h"

namespace turbofleet::client {

// When and how often a call is tried again.
//
// Tried again are: a coordinator that cannot be reached or is shutting down (UNAVAILABLE), an answer that says when to
// come back (RetryInfo), and a stream that breaks in the middle. In the last case only images that have not ended are
// asked for again, and the caller sees nothing of it: the pictures are the same. Numbers count tries without any
// progress between them.
struct RetryPolicy {
  int connect_attempts_max = 5;  // While the coordinator has not admitted the request.
  int busy_attempts_max = 30;    // While its queue is full.
  int resume_attempts_max = 12;  // After it had admitted the request.
  absl::Duration delay_initial = absl::Milliseconds(200);
  absl::Duration delay_max = absl::Seconds(10);  // Doubles up to here. A delay that the server asks for is kept to.
};

// PEM files by path, for channels that leave this machine.
struct TransportSecurity {
  std::string authority = {};    // CA bundle; "" with a coordinator elsewhere: the system's.
  std::string certificate = {};  // Own chain, for mutual TLS.
  std::string key = {};          // Its private key.
  bool insecure = false;         // Plain text although the coordinator is on another machine.
};

struct ClientOptions {
  std::string coordinator = "localhost:50051";  // "HOST:PORT", "unix:PATH", or a gRPC target such as dns:///name:port.
  TransportSecurity security = {};
  RetryPolicy retry = {};
};

struct GenerateOptions {
  // For the whole call with all its tries. Not set: none.
  std::optional<absl::Duration> timeout = {};
  // Cancels the call, also on the cluster.
  std::stop_token stop = {};
  // Told before each wait for another try.
  std::function<void(const absl::Status& error, absl::Duration delay)> on_retry = {};
};

// How long GetCluster() and ListWorkers() may take.
struct LookOptions {
  absl::Duration timeout = absl::Seconds(10);
  std::stop_token stop = {};
};

class Connection;

// A connection to one coordinator. Movable. Thread-safe: any number of calls at once.
class Client {
 public:
  // Does not touch the network yet: the first call does.
  // INVALID_ARGUMENT: `coordinator` is no address. FAILED_PRECONDITION: it is on another machine, and neither TLS nor
  // `insecure` was asked for. NOT_FOUND: a PEM file is missing.
  static absl::StatusOr<Client> Connect(const ClientOptions& options);

  // Takes any connection; for tests.
  explicit Client(std::unique_ptr<Connection> connection);
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // Generates images. Calls `on_event` from this thread: once with Accepted, then exactly once per image, in the order
  // in which they end. Returns when all have ended.
  //
  // OK: every image ended, some perhaps as failures. INVALID_ARGUMENT, FAILED_PRECONDITION: refused, nothing was
  // rendered. UNAVAILABLE, RESOURCE_EXHAUSTED: given up after the tries of RetryPolicy. DEADLINE_EXCEEDED, CANCELLED:
  // `timeout` passed or `stop` was requested. INTERNAL with kReasonProtocolViolation: the coordinator misbehaves.
  // Images that were passed to `on_event` before an error are valid.
  absl::Status GenerateImages(const GenerateRequest& request, const GenerateOptions& options,
                              const std::function<void(GenerateEvent event)>& on_event);

  // The state of the cluster. UNAVAILABLE: it cannot be reached; tried once.
  absl::StatusOr<ClusterState> GetCluster(const LookOptions& options = {});

  // All workers, by name. Errors as above.
  absl::StatusOr<std::vector<WorkerState>> ListWorkers(const LookOptions& options = {});

 private:
  std::unique_ptr<Connection> connection_;
};

}  // namespace turbofleet::client

namespace turbofleet {
using client::Client;
}  // namespace turbofleet
