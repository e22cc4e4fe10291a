// Whose call it is.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"

namespace turbofleet {

// The tenant of calls that name none.
inline constexpr char kDefaultTenant[] = "default";

// Constant, so thread-safe.
class Tenants {
 public:
  // `metadata_key` is a call's metadata, in lower case, that is trusted to name the tenant, because something in front
  // of the coordinator sets it. Empty: all calls are of one tenant.
  explicit Tenants(std::string metadata_key) : metadata_key_(std::move(metadata_key)) {}

  // INVALID_ARGUMENT INVALID_TENANT: not 1 to 63 characters of [A-Za-z0-9._-], or named twice.
  absl::StatusOr<std::string> Of(const grpc::CallbackServerContext& context) const;

 private:
  const std::string metadata_key_;
};

}  // namespace turbofleet
