// A bidirectional gRPC call whose reactions only post.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "common/errors.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "worker/agent/mailbox.h"

namespace turbofleet {

// One call from its start to its end. One thread, that of the mailbox, calls the methods and gets the events; the call
// keeps itself alive until `done`. At most one read and one write are in flight, which REQUIREs of the caller to wait
// for `read` before Read() and for `written` before Write().
template <typename Request, typename Response>
class StreamCall : public grpc::ClientBidiReactor<Request, Response>,
                   public std::enable_shared_from_this<StreamCall<Request, Response>> {
 public:
  struct Events {
    std::function<void(Response)> read;
    // The transport took the message; this says nothing about the other side.
    std::function<void()> written;
    // The last event. Always comes.
    std::function<void(absl::Status)> done;
  };

  StreamCall(std::shared_ptr<Mailbox> mailbox, Events events)
      : mailbox_(std::move(mailbox)), events_(std::move(events)) {}

  // `connect` hands the context and the reactor to the stub's method. Starts reading as well.
  void Start(const std::function<void(grpc::ClientContext*, StreamCall*)>& connect) {
    self_ = this->shared_from_this();
    connect(&context_, this);
    this->AddHold();
    holding_ = true;
    this->StartRead(&response_);
    this->StartCall();
  }

  // Ignored after the call's end.
  void Read() {
    if (holding_) this->StartRead(&response_);
  }

  void Write(std::shared_ptr<const Request> request) {
    if (!holding_ || half_closed_) return;
    writing_ = std::move(request);
    this->StartWrite(writing_.get());
  }

  // Nothing more is written.
  void WritesDone() {
    if (!holding_ || half_closed_) return;
    half_closed_ = true;
    this->StartWritesDone();
  }

  // Ends the call from this side; `done` follows soon.
  void Cancel() {
    context_.TryCancel();
    Release();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      mailbox_->Post([self = this->shared_from_this()] { self->events_.read(std::move(self->response_)); });
    } else {
      mailbox_->Post([self = this->shared_from_this()] { self->Release(); });
    }
  }

  void OnWriteDone(bool ok) override {
    // Of a failed write `done` tells the reason.
    if (ok) mailbox_->Post([self = this->shared_from_this()] { self->events_.written(); });
  }

  void OnDone(const grpc::Status& status) override {
    mailbox_->Post([self = std::move(self_), result = FromGrpcStatus(status)] { self->events_.done(result); });
  }

 private:
  // No operation is started after this, so that gRPC may finish the call.
  void Release() {
    if (!holding_) return;
    holding_ = false;
    this->RemoveHold();
  }

  const std::shared_ptr<Mailbox> mailbox_;
  const Events events_;
  grpc::ClientContext context_;
  std::shared_ptr<StreamCall> self_;  // Until OnDone.
  Response response_;                 // Belongs to gRPC while a read is in flight.
  std::shared_ptr<const Request> writing_;
  bool holding_ = false;
  bool half_closed_ = false;
};

}  // namespace turbofleet
