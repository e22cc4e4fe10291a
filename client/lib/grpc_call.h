// How this library makes calls with gRPC's blocking interface.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/lib/stub.h"
#include "common/errors.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"

namespace turbofleet::client {

// A call's context with its deadline, which a stop token cancels. Lives as long as the call.
class GrpcCall {
 public:
  explicit GrpcCall(const CallOptions& options) : cancel_(options.stop, [this] { context_.TryCancel(); }) {
    if (!options.timeout.has_value()) return;
    context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(*options.timeout));
  }

  grpc::ClientContext* context() { return &context_; }

 private:
  grpc::ClientContext context_;
  std::stop_callback<std::function<void()>> cancel_;
};

template <typename Response, typename Stub, typename Request>
absl::StatusOr<Response> CallUnary(Stub* stub,
                                   grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                   const Request& request, const CallOptions& options) {
  GrpcCall call(options);
  Response response;
  const grpc::Status status = (stub->*method)(call.context(), request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response;
}

// Reads a stream to its end. An error of `on_response` cancels the call and is what comes back.
template <typename Response>
absl::Status ReadAll(grpc::ClientContext* context, std::unique_ptr<grpc::ClientReader<Response>> reader,
                     const std::function<absl::Status(Response* response)>& on_response) {
  absl::Status refused;
  Response response;
  while (reader->Read(&response)) {
    refused = on_response(&response);
    if (!refused.ok()) {
      context->TryCancel();
      break;
    }
  }
  const grpc::Status status = reader->Finish();
  return refused.ok() ? FromGrpcStatus(status) : refused;
}

}  // namespace turbofleet::client
