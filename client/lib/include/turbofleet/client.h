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
#include "turbofleet/jobs.h"

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

// For one call about a job with all its tries.
using JobOptions = GenerateOptions;

struct WatchOptions {
  // For the whole watch with all its tries. Not set: none.
  std::optional<absl::Duration> timeout = {};
  // Ends the watch; the job goes on.
  std::stop_token stop = {};
  // Told before each wait for another try.
  std::function<void(const absl::Status& error, absl::Duration delay)> on_retry = {};
  // Releases the images that `on_event` has returned from, so that a job which is larger than the coordinator's room
  // goes on. They cannot be watched again.
  bool release_delivered = false;
  // After how many bytes of files. Sooner while the job waits for it, and at the end.
  int64_t release_bytes = 64 << 20;
  // Called before images are released: the time to make sure of them. An error ends the watch.
  std::function<absl::Status(const std::string& resume_token)> before_release = {};
};

// A page of jobs, newest first.
struct JobPage {
  std::vector<Job> jobs;
  std::string next_page_token;  // Empty after the last.
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

  // Creates a job. When this returns, the job survives the death of every program. The prompts are sent in chunks, so
  // there may be any number of them.
  //
  // Tried again, as all calls about jobs, as RetryPolicy says; that never makes a second job. Errors, besides those of
  // GenerateImages: ALREADY_EXISTS: the `request_id` belongs to a job with other content. RESOURCE_EXHAUSTED: a limit
  // of the tenant or of the coordinator is reached.
  absl::StatusOr<Job> CreateJob(const JobRequest& request, const JobOptions& options = {});

  // NOT_FOUND: there is no such job (any more); so for all calls that name one.
  absl::StatusOr<Job> GetJob(const std::string& name, const JobOptions& options = {});

  // One page: the first, or the one that `page_token` of the page before names. At most 1,000 jobs; `page_size` of 0:
  // as many as the coordinator likes.
  absl::StatusOr<JobPage> ListJobsPage(const JobFilter& filter, int32_t page_size, const std::string& page_token,
                                       const JobOptions& options = {});

  // All pages. At most 1,000,000 jobs: RESOURCE_EXHAUSTED beyond.
  absl::StatusOr<std::vector<Job>> ListJobs(const JobFilter& filter, const JobOptions& options = {});

  // Passes a job's images to `on_event` from this thread: those that there are and, as they are finished, those to
  // come. Each event comes exactly once, whatever breaks between here and the cluster and however often: after a wait
  // as RetryPolicy says, the watch goes on where it was. Returns when the job has ended and all its images were passed.
  //
  // INVALID_ARGUMENT: `resume_token` is of another job or order. OUT_OF_RANGE: what follows it was released. DATA_LOSS:
  // a picture cannot be read back. Otherwise as for GenerateImages.
  absl::Status WatchJob(const WatchRequest& request, const WatchOptions& options,
                        const std::function<void(WatchEvent event)>& on_event);

  // Gives up the images up to a WatchEvent's `resume_token`, whose room on the coordinator becomes free.
  // INVALID_ARGUMENT: the token is of another job.
  absl::StatusOr<Job> ReleaseImages(const std::string& name, const std::string& resume_token,
                                    const JobOptions& options = {});

  // What has not been finished will not be; what has stays. A job that has ended comes back as it is.
  absl::StatusOr<Job> CancelJob(const std::string& name, const JobOptions& options = {});

  // Deletes a job that has ended, with all its images. FAILED_PRECONDITION: it is running. OK also if there is no such
  // job after a try whose answer was lost.
  absl::Status DeleteJob(const std::string& name, const JobOptions& options = {});

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
