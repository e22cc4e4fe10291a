// A worker that does over the wire what a test tells it, and nothing by itself.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "turbofleet/internal/worker/v1/worker_service.grpc.pb.h"

namespace turbofleet {

// Calls block, for a minute at most. Thread-compatible.
class FakeWorker {
 public:
  explicit FakeWorker(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(internal::worker::v1::WorkerService::NewStub(channel)) {
    session_context_.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    delivery_context_.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    session_ = stub_->Session(&session_context_);
    delivery_ = stub_->DeliverImages(&delivery_context_);
  }

  ~FakeWorker() { Kill(); }

  static internal::worker::v1::Hello ValidHello(const std::string& name = "anna") {
    internal::worker::v1::Hello hello;
    hello.set_worker(name);
    hello.set_version("0.1.0");
    hello.set_model_name("sd-turbo");
    hello.set_model_digest(absl::StrCat("sha256:", std::string(64, 'a')));
    hello.set_device("cpu");
    hello.set_device_name("a processor");
    hello.set_precision("float32");
    hello.set_default_width(64);
    hello.set_default_height(64);
    hello.set_size_max(512);
    hello.set_batch_images_max(4);
    hello.set_incarnation(std::string(32, '0'));
    return hello;
  }

  bool SendHello(const internal::worker::v1::Hello& hello) {
    internal::worker::v1::SessionRequest request;
    *request.mutable_hello() = hello;
    return session_->Write(request);
  }

  bool SendReport(const internal::worker::v1::Report& report) {
    internal::worker::v1::SessionRequest request;
    *request.mutable_report() = report;
    return session_->Write(request);
  }

  // Grants this many batches in all; everything received so far is still held.
  bool Grant(int64_t batches) {
    internal::worker::v1::Report report;
    report.set_batches_taken_max(batches);
    report.set_last_lease_received(last_lease_);
    for (const uint64_t lease : leases_) report.add_leases(lease);
    return SendReport(report);
  }

  // The next message, or nothing when the stream has ended.
  std::optional<internal::worker::v1::SessionResponse> Read() {
    internal::worker::v1::SessionResponse response;
    if (!session_->Read(&response)) return std::nullopt;
    if (response.has_welcome()) token_ = response.welcome().session();
    if (response.has_batch()) {
      last_lease_ = response.batch().lease();
      leases_.push_back(last_lease_);
    }
    return response;
  }

  // Says hello, hears welcome, and grants batches.
  bool Join(int64_t batches, const std::string& name = "anna") {
    if (!SendHello(ValidHello(name))) return false;
    const auto welcome = Read();
    return welcome.has_value() && welcome->has_welcome() && Grant(batches);
  }

  internal::worker::v1::DeliverImagesRequest Rendered(uint64_t lease, int32_t slot, size_t bytes = 100) const {
    internal::worker::v1::DeliverImagesRequest request;
    request.set_session(token_);
    request.set_lease(lease);
    request.set_slot(slot);
    request.mutable_image()->set_content(std::string(bytes, 'x'));
    request.mutable_image()->set_pixel_sha256(std::string(64, '0'));
    request.mutable_image()->set_batch_size(1);
    return request;
  }

  // Whether the coordinator took it; nothing when the stream has ended.
  std::optional<bool> Deliver(const internal::worker::v1::DeliverImagesRequest& request) {
    internal::worker::v1::DeliverImagesResponse response;
    if (!delivery_->Write(request) || !delivery_->Read(&response)) return std::nullopt;
    return response.accepted();
  }

  grpc::Status FinishSession() {
    session_->WritesDone();
    return session_->Finish();
  }
  grpc::Status FinishDelivery() { return delivery_->Finish(); }

  // As kill -9 does: the streams break.
  void Kill() {
    session_context_.TryCancel();
    delivery_context_.TryCancel();
  }

  internal::worker::v1::WorkerService::Stub& stub() { return *stub_; }
  const std::string& token() const { return token_; }

 private:
  const std::unique_ptr<internal::worker::v1::WorkerService::Stub> stub_;
  grpc::ClientContext session_context_;
  grpc::ClientContext delivery_context_;
  std::unique_ptr<grpc::ClientReaderWriter<internal::worker::v1::SessionRequest, internal::worker::v1::SessionResponse>>
      session_;
  std::unique_ptr<
      grpc::ClientReaderWriter<internal::worker::v1::DeliverImagesRequest, internal::worker::v1::DeliverImagesResponse>>
      delivery_;
  std::string token_;
  uint64_t last_lease_ = 0;
  std::vector<uint64_t> leases_;
};

}  // namespace turbofleet
