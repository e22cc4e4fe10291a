#include "common/address.h"

#include <arpa/inet.h>

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace turbofleet {
namespace {

constexpr int kPortMax = 65535;

bool IsLoopbackHost(const std::string& host) {
  if (absl::EqualsIgnoreCase(host, "localhost")) return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(const std::string& name, const std::string& address) {
  const auto invalid = [&](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": \"", address, "\" ", what, "; write HOST:PORT, such as ",
                                                   "127.0.0.1:50051 or [::1]:50051"));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return invalid("has no port");
  HostPort result;
  result.host = address.substr(0, colon);
  if (!result.host.empty() && result.host.front() == '[') {
    if (result.host.back() != ']') return invalid("has an open bracket");
    result.host = result.host.substr(1, result.host.size() - 2);
    in6_addr v6;
    if (inet_pton(AF_INET6, result.host.c_str(), &v6) != 1) return invalid("has no IPv6 address in its brackets");
  } else if (absl::StrContains(result.host, ":")) {
    return invalid("needs brackets around its IPv6 address");
  }
  if (result.host.empty()) return invalid("has no host");
  const std::string port = address.substr(colon + 1);
  for (const char c : port) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return invalid("has a port that is no number");
  }
  if (!absl::SimpleAtoi(port, &result.port) || result.port > kPortMax) return invalid("has no port from 0 to 65535");
  return result;
}

std::string FormatHostPort(const HostPort& address) {
  const bool v6 = absl::StrContains(address.host, ":");
  return absl::StrCat(v6 ? "[" : "", address.host, v6 ? "]:" : ":", address.port);
}

bool IsLoopback(const std::string& address) {
  if (absl::StartsWith(address, "unix:") || absl::StartsWith(address, "unix-abstract:")) return true;
  std::string rest = address;
  for (const char* scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::StartsWith(rest, scheme)) {
      rest = rest.substr(std::strlen(scheme));
      break;
    }
  }
  const std::vector<std::string> parts = absl::StrSplit(rest, ',');
  for (const std::string& part : parts) {
    const absl::StatusOr<HostPort> parsed = ParseHostPort("address", part);
    if (!parsed.ok() || !IsLoopbackHost(parsed->host)) return false;
  }
  return true;
}

}  // namespace turbofleet
