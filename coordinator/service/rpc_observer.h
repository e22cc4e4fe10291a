// What the services tell to those who count calls.
#pragma once

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace turbofleet {

// Thread-safe and quick. The base class ignores everything.
class RpcObserver {
 public:
  struct Method {
    const char* type = "unary";  // As in the conventional metrics: "unary", "server_stream", "bidi_stream".
    const char* service = "";
    const char* method = "";
  };
  virtual ~RpcObserver() = default;
  virtual void OnStarted(const Method& /*method*/) {}
  virtual void OnHandled(const Method& /*method*/, grpc::StatusCode /*code*/, absl::Duration /*duration*/) {}
  // A request was refused with this ErrorInfo reason.
  virtual void OnRefused(const std::string& /*reason*/) {}
};

// Observes one call from construction to Handled().
class ObservedCall {
 public:
  ObservedCall(RpcObserver* observer, const RpcObserver::Method& method)
      : observer_(observer), method_(method), start_(absl::Now()) {
    observer_->OnStarted(method_);
  }
  void Handled(grpc::StatusCode code) { observer_->OnHandled(method_, code, absl::Now() - start_); }

 private:
  RpcObserver* const observer_;
  const RpcObserver::Method method_;
  const absl::Time start_;
};

}  // namespace turbofleet
