#include "tests/worker/agent/fake_coordinator.h"

#include "absl/strings/str_cat.h"
#include "common/grpc_server.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace turbofleet {

namespace wire = internal::worker::v1;

FakeCoordinator::FakeCoordinator() {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  ApplyServerLimits({}, &builder);
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeCoordinator::~FakeCoordinator() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeCoordinator::SetSilent(bool silent) {
  absl::MutexLock lock(&mu_);
  silent_ = silent;
}

void FakeCoordinator::EndNextHello(const grpc::Status& status) {
  absl::MutexLock lock(&mu_);
  end_next_ = status;
}

void FakeCoordinator::SetAcknowledging(bool acknowledging) {
  absl::MutexLock lock(&mu_);
  acknowledging_ = acknowledging;
}

void FakeCoordinator::SetAccepting(bool accepting) {
  absl::MutexLock lock(&mu_);
  accepting_ = accepting;
}

void FakeCoordinator::SetDeliveriesPerStream(int deliveries) {
  absl::MutexLock lock(&mu_);
  deliveries_per_stream_ = deliveries;
}

void FakeCoordinator::AddInput(const std::string& sha256, const std::string& content) {
  absl::MutexLock lock(&mu_);
  inputs_[sha256] = content;
}

bool FakeCoordinator::Await(const std::function<bool()>& condition) const {
  return mu_.AwaitWithTimeout(absl::Condition(&condition), kPatience);
}

bool FakeCoordinator::AwaitSessions(size_t count) {
  absl::MutexLock lock(&mu_);
  return Await([this, count] {
    mu_.AssertHeld();
    return sessions_.size() >= count;
  });
}

bool FakeCoordinator::AwaitOver(size_t session) { return StreamOf(session)->AwaitOver(); }

bool FakeCoordinator::AwaitLeft(size_t session) { return StreamOf(session)->AwaitLeft(); }

bool FakeCoordinator::AwaitDeliveries(size_t count) {
  absl::MutexLock lock(&mu_);
  return Await([this, count] {
    mu_.AssertHeld();
    return deliveries_.size() >= count;
  });
}

bool FakeCoordinator::AwaitReports(size_t session, size_t count) {
  absl::MutexLock lock(&mu_);
  return Await([this, session, count] {
    mu_.AssertHeld();
    return session < sessions_.size() && sessions_[session].reports.size() >= count;
  });
}

bool FakeCoordinator::AwaitReport(size_t session, const std::function<bool(const Report&)>& condition) {
  absl::MutexLock lock(&mu_);
  return Await([this, session, &condition] {
    mu_.AssertHeld();
    return session < sessions_.size() && !sessions_[session].reports.empty() &&
           condition(sessions_[session].reports.back());
  });
}

FakeCoordinator::Hello FakeCoordinator::hello(size_t session) const {
  absl::MutexLock lock(&mu_);
  return sessions_.at(session).hello;
}

std::vector<FakeCoordinator::Report> FakeCoordinator::reports(size_t session) const {
  absl::MutexLock lock(&mu_);
  return sessions_.at(session).reports;
}

std::vector<FakeCoordinator::Delivered> FakeCoordinator::deliveries() const {
  absl::MutexLock lock(&mu_);
  return deliveries_;
}

size_t FakeCoordinator::sessions() const {
  absl::MutexLock lock(&mu_);
  return sessions_.size();
}

int FakeCoordinator::input_calls() const {
  absl::MutexLock lock(&mu_);
  return input_calls_;
}

std::shared_ptr<FakeCoordinator::SessionStream> FakeCoordinator::StreamOf(size_t session) const {
  absl::MutexLock lock(&mu_);
  return sessions_.at(session).stream;
}

void FakeCoordinator::Send(size_t session, const SessionResponse& response) { StreamOf(session)->Push(response); }

void FakeCoordinator::SendBatch(size_t session, const Batch& batch) {
  SessionResponse response;
  *response.mutable_batch() = batch;
  Send(session, response);
}

void FakeCoordinator::SendAbandon(size_t session, uint64_t lease, const std::vector<int>& slots) {
  SessionResponse response;
  response.mutable_abandon()->set_lease(lease);
  for (const int slot : slots) response.mutable_abandon()->add_slots(slot);
  Send(session, response);
}

void FakeCoordinator::EndSession(size_t session, const grpc::Status& status) { StreamOf(session)->End(status); }

void FakeCoordinator::AcknowledgeAll() {
  std::vector<std::pair<std::shared_ptr<DeliveryStream>, Delivered>> unacknowledged;
  {
    absl::MutexLock lock(&mu_);
    unacknowledged.swap(unacknowledged_);
  }
  for (const auto& [stream, delivered] : unacknowledged) {
    wire::DeliverImagesResponse response;
    response.set_lease(delivered.lease());
    response.set_slot(delivered.slot());
    response.set_accepted(true);
    stream->Push(response);
  }
}

grpc::ServerBidiReactor<wire::SessionRequest, wire::SessionResponse>* FakeCoordinator::Session(
    grpc::CallbackServerContext* /*context*/) {
  const auto stream = std::make_shared<SessionStream>();
  stream->Start([this, stream = stream.get()](const wire::SessionRequest& request) {
    OnSession(stream->shared_from_this(), request);
  });
  return stream.get();
}

void FakeCoordinator::OnSession(const std::shared_ptr<SessionStream>& stream, const wire::SessionRequest& request) {
  std::optional<grpc::Status> end;
  bool welcome = false;
  {
    absl::MutexLock lock(&mu_);
    if (request.has_hello()) {
      sessions_.push_back({.stream = stream, .hello = request.hello(), .reports = {}});
      welcome = !silent_;
      end.swap(end_next_);
    }
    if (request.has_report()) {
      for (Opened& session : sessions_) {
        if (session.stream == stream) session.reports.push_back(request.report());
      }
    }
  }
  if (end.has_value()) {
    stream->End(*end);
  } else if (welcome) {
    wire::SessionResponse response;
    response.mutable_welcome()->set_session("a session");
    response.mutable_welcome()->mutable_report_interval()->set_seconds(absl::ToInt64Seconds(kReportInterval));
    stream->Push(response);
  }
}

grpc::ServerBidiReactor<wire::DeliverImagesRequest, wire::DeliverImagesResponse>* FakeCoordinator::DeliverImages(
    grpc::CallbackServerContext* /*context*/) {
  const auto stream = std::make_shared<DeliveryStream>();
  stream->Start([this, stream = stream.get(), count = std::make_shared<int>(0)](const Delivered& delivered) {
    OnDelivery(stream->shared_from_this(), delivered, count.get());
  });
  return stream.get();
}

void FakeCoordinator::OnDelivery(const std::shared_ptr<DeliveryStream>& stream, const Delivered& delivered,
                                 int* count) {
  wire::DeliverImagesResponse response;
  response.set_lease(delivered.lease());
  response.set_slot(delivered.slot());
  bool acknowledge = false;
  bool end = false;
  {
    absl::MutexLock lock(&mu_);
    deliveries_.push_back(delivered);
    response.set_accepted(accepting_);
    acknowledge = acknowledging_;
    if (!acknowledge) unacknowledged_.emplace_back(stream, delivered);
    end = ++*count == deliveries_per_stream_;
  }
  if (acknowledge) stream->Push(response);
  if (end) stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken by the test"));
}

grpc::ServerUnaryReactor* FakeCoordinator::GetInput(grpc::CallbackServerContext* context,
                                                    const wire::GetInputRequest* request,
                                                    wire::GetInputResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::MutexLock lock(&mu_);
  ++input_calls_;
  const auto found = inputs_.find(request->sha256());
  if (found == inputs_.end()) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no running job uses it"));
  } else {
    response->set_content(found->second);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

}  // namespace turbofleet
