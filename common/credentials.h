// Transport security of listeners and channels. What is not loopback has to be encrypted, unless the operator says
// otherwise in so many words.
//
// Files are read again every minute, so a renewed certificate serves new connections without a restart. Replace key
// and certificate together, by swapping a symbolic link to their folder as Kubernetes does.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/address.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"

namespace turbofleet {

// PEM files by path. Programs fill it from --tls-cert, --tls-key, --tls-ca and --insecure.
struct TlsOptions {
  std::string certificate = {};  // Own chain. Listeners need it; channels only for mutual TLS.
  std::string key = {};          // Own private key.
  std::string authority = {};  // CA bundle that the other side's certificate is checked with; "" on a channel takes the
                               // system's. A listener that has it demands client certificates.
  bool insecure = false;       // Allow plain text beyond loopback.
  int reload_seconds = 60;     // How often the files are looked at again.
};

// Credentials to listen at `address` ("HOST:PORT" or "unix:PATH"). FAILED_PRECONDITION: `address` is not loopback, and
// there is neither a certificate nor `insecure`. NOT_FOUND, INVALID_ARGUMENT: a file is missing, broken or expired, or
// the key does not fit the certificate; the flag is named.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const TlsOptions& options,
                                                                               const std::string& address);

// Credentials to dial `target`. TLS if any TLS file is given; plain text to loopback, or with `insecure`. Errors as
// above.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const TlsOptions& options,
                                                                                 const std::string& target);

}  // namespace turbofleet
