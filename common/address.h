// Network addresses as people write them: "HOST:PORT".
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace turbofleet {

struct HostPort {
  std::string host;  // A name, an IPv4 address, or an IPv6 address without its brackets.
  int port = 0;      // 0 to 65535. A listener takes a free port for 0.
};

// Parses "HOST:PORT" with an IPv6 HOST in brackets. `name` is what the error calls the address, such as a flag.
// INVALID_ARGUMENT: the host is empty, or the port is missing or no number in the range.
absl::StatusOr<HostPort> ParseHostPort(const std::string& name, const std::string& address);

// The inverse of ParseHostPort.
std::string FormatHostPort(const HostPort& address);

// Whether an address or gRPC target can only be reached from this machine: 127.0.0.0/8, [::1], localhost, or a Unix
// socket. What cannot be parsed is not loopback.
bool IsLoopback(const std::string& address);

}  // namespace turbofleet
