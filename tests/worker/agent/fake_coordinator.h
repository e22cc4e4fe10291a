// A coordinator that does what a test says: a real gRPC server on loopback, without a scheduler behind it.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "turbofleet/internal/worker/v1/worker_service.grpc.pb.h"

namespace turbofleet {

// How long a test waits for what must come. Only a failing test ever waits that long.
inline constexpr absl::Duration kPatience = absl::Seconds(60);

// The server's end of a stream, which keeps itself alive until it is over. Thread-safe.
template <typename Request, typename Response>
class ServerStream : public grpc::ServerBidiReactor<Request, Response>,
                     public std::enable_shared_from_this<ServerStream<Request, Response>> {
 public:
  void Start(std::function<void(const Request&)> on_request) {
    self_ = this->shared_from_this();
    on_request_ = std::move(on_request);
    this->StartRead(&request_);
  }

  void Push(Response response) {
    {
      absl::MutexLock lock(&mu_);
      responses_.push_back(std::move(response));
    }
    Pump();
  }

  // After what was pushed before.
  void End(const grpc::Status& status) {
    {
      absl::MutexLock lock(&mu_);
      if (!end_.has_value()) end_ = status;
    }
    Pump();
  }

  // Waits until gRPC is through with it.
  bool AwaitOver() const {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&over_), kPatience);
  }

  // Waits until the worker has half-closed, or is gone.
  bool AwaitLeft() const {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&left_), kPatience);
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      on_request_(request_);
      this->StartRead(&request_);
      return;
    }
    {
      absl::MutexLock lock(&mu_);
      left_ = true;
    }
    End(grpc::Status::OK);
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      responses_.pop_front();
      if (!ok) responses_.clear();
    }
    Pump();
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnDone() override {
    const auto self = std::move(self_);
    absl::MutexLock lock(&mu_);
    over_ = true;
  }

 private:
  void Pump() {
    const Response* write = nullptr;
    std::optional<grpc::Status> finish;
    {
      absl::MutexLock lock(&mu_);
      if (writing_ || finished_) return;
      if (!responses_.empty()) {
        writing_ = true;
        write = &responses_.front();
      } else if (end_.has_value()) {
        finished_ = true;
        finish = end_;
      }
    }
    if (write != nullptr) this->StartWrite(write);
    if (finish.has_value()) this->Finish(*finish);
  }

  std::shared_ptr<ServerStream> self_;
  std::function<void(const Request&)> on_request_;
  Request request_;
  mutable absl::Mutex mu_;
  std::deque<Response> responses_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool left_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
};

// Thread-safe. Sessions are numbered from 0 in the order of their hellos.
class FakeCoordinator : public internal::worker::v1::WorkerService::CallbackService {
 public:
  using Hello = internal::worker::v1::Hello;
  using Report = internal::worker::v1::Report;
  using Batch = internal::worker::v1::Batch;
  using SessionResponse = internal::worker::v1::SessionResponse;
  using Delivered = internal::worker::v1::DeliverImagesRequest;

  // How often workers are told to report. Tests' timers know reports by it.
  static constexpr absl::Duration kReportInterval = absl::Seconds(1);

  FakeCoordinator();
  ~FakeCoordinator() override;

  const std::string& address() const { return address_; }

  // What is answered to the next hellos: nothing, or an end. Empty: Welcome.
  void SetSilent(bool silent);
  void EndNextHello(const grpc::Status& status);
  // Whether deliveries are acknowledged as they come, and as kept. Those that came before are not acknowledged later.
  void SetAcknowledging(bool acknowledging);
  void SetAccepting(bool accepting);
  // Ends delivery streams after `deliveries` messages each; 0 never.
  void SetDeliveriesPerStream(int deliveries);
  void AddInput(const std::string& sha256, const std::string& content);

  // Waits. Each returns whether it came.
  bool AwaitSessions(size_t count);
  bool AwaitOver(size_t session);
  bool AwaitLeft(size_t session);
  bool AwaitDeliveries(size_t count);
  bool AwaitReports(size_t session, size_t count);
  // The last report of a session, sooner or later.
  bool AwaitReport(size_t session, const std::function<bool(const Report&)>& condition);

  Hello hello(size_t session) const;
  std::vector<Report> reports(size_t session) const;
  std::vector<Delivered> deliveries() const;
  size_t sessions() const;
  int input_calls() const;

  void Send(size_t session, const SessionResponse& response);
  void SendBatch(size_t session, const Batch& batch);
  void SendAbandon(size_t session, uint64_t lease, const std::vector<int>& slots);
  void EndSession(size_t session, const grpc::Status& status);
  // Acknowledges what has come and was not acknowledged yet.
  void AcknowledgeAll();

 private:
  using SessionStream = ServerStream<internal::worker::v1::SessionRequest, SessionResponse>;
  using DeliveryStream = ServerStream<Delivered, internal::worker::v1::DeliverImagesResponse>;
  struct Opened {
    std::shared_ptr<SessionStream> stream;
    Hello hello;
    std::vector<Report> reports;
  };

  grpc::ServerBidiReactor<internal::worker::v1::SessionRequest, SessionResponse>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<Delivered, internal::worker::v1::DeliverImagesResponse>* DeliverImages(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetInput(grpc::CallbackServerContext* context,
                                     const internal::worker::v1::GetInputRequest* request,
                                     internal::worker::v1::GetInputResponse* response) override;

  void OnSession(const std::shared_ptr<SessionStream>& stream, const internal::worker::v1::SessionRequest& request);
  void OnDelivery(const std::shared_ptr<DeliveryStream>& stream, const Delivered& delivered, int* count);
  bool Await(const std::function<bool()>& condition) const;
  std::shared_ptr<SessionStream> StreamOf(size_t session) const;

  mutable absl::Mutex mu_;
  bool silent_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<grpc::Status> end_next_ ABSL_GUARDED_BY(mu_);
  bool acknowledging_ ABSL_GUARDED_BY(mu_) = true;
  bool accepting_ ABSL_GUARDED_BY(mu_) = true;
  int deliveries_per_stream_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, std::string> inputs_ ABSL_GUARDED_BY(mu_);
  int input_calls_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Opened> sessions_ ABSL_GUARDED_BY(mu_);
  std::vector<Delivered> deliveries_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<std::shared_ptr<DeliveryStream>, Delivered>> unacknowledged_ ABSL_GUARDED_BY(mu_);
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace turbofleet
