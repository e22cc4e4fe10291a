#include "common/credentials.h"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace turbofleet {
namespace {

constexpr size_t kPemBytesMax = 4 << 20;

using BioPtr = std::unique_ptr<BIO, decltype(&BIO_free)>;
using CertificatePtr = std::unique_ptr<X509, decltype(&X509_free)>;
using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(flag, ": cannot read ", path));
  std::string text;
  text.resize(kPemBytesMax + 1);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (file.bad()) return absl::NotFoundError(absl::StrCat(flag, ": cannot read ", path));
  if (text.size() > kPemBytesMax) return absl::InvalidArgumentError(absl::StrCat(flag, ": ", path, " is too large"));
  return text;
}

// OpenSSL would ask at the terminal.
int RefusePassword(char*, int, int, void*) { return -1; }

absl::StatusOr<CertificatePtr> ReadFirstCertificate(const std::string& flag, const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string pem, ReadPem(flag, path));
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  CertificatePtr certificate(PEM_read_bio_X509(bio.get(), nullptr, RefusePassword, nullptr), X509_free);
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": ", path, " holds no PEM certificate"));
  }
  return certificate;
}

absl::StatusOr<KeyPtr> ReadKey(const std::string& flag, const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string pem, ReadPem(flag, path));
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, RefusePassword, nullptr), EVP_PKEY_free);
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": ", path, " holds no PEM private key without a password"));
  }
  return key;
}

// gRPC notices a broken file only at the first connection, in a log line; here it is an error before the start.
absl::Status CheckFiles(const TlsOptions& options) {
  if (options.certificate.empty() != options.key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together: give both or none");
  }
  if (!options.certificate.empty()) {
    TURBOFLEET_ASSIGN_OR_RETURN(const CertificatePtr certificate,
                                ReadFirstCertificate("--tls-cert", options.certificate));
    TURBOFLEET_ASSIGN_OR_RETURN(const KeyPtr key, ReadKey("--tls-key", options.key));
    if (X509_check_private_key(certificate.get(), key.get()) != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tls-key: ", options.key, " is not the key of the certificate in ", options.certificate));
    }
    if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tls-cert: the certificate in ", options.certificate, " has expired"));
    }
  }
  if (!options.authority.empty()) return ReadFirstCertificate("--tls-ca", options.authority).status();
  return absl::OkStatus();
}

bool HasTlsFile(const TlsOptions& options) {
  return !options.certificate.empty() || !options.key.empty() || !options.authority.empty();
}

std::shared_ptr<grpc::experimental::FileWatcherCertificateProvider> WatchFiles(const TlsOptions& options) {
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      options.key, options.certificate, options.authority, static_cast<unsigned int>(options.reload_seconds));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const TlsOptions& options,
                                                                               const std::string& address) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFiles(options));
  if (options.certificate.empty()) {
    if (!options.authority.empty()) {
      return absl::InvalidArgumentError(
          "--tls-ca: a listener that checks client certificates needs --tls-cert and "
          "--tls-key of its own");
    }
    if (IsLoopback(address) || options.insecure) return grpc::InsecureServerCredentials();
    return absl::FailedPreconditionError(
        absl::StrCat("refusing to listen in plain text at ", address,
                     ", which other machines can reach: give --tls-cert and --tls-key, listen at 127.0.0.1, or pass "
                     "--insecure if the network protects the port"));
  }
  grpc::experimental::TlsServerCredentialsOptions tls(WatchFiles(options));
  tls.watch_identity_key_cert_pairs();
  tls.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  if (!options.authority.empty()) {
    tls.watch_root_certs();
    tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(tls);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const TlsOptions& options,
                                                                                 const std::string& target) {
  TURBOFLEET_RETURN_IF_ERROR(CheckFiles(options));
  if (!HasTlsFile(options)) {
    if (IsLoopback(target) || options.insecure) return grpc::InsecureChannelCredentials();
    return absl::FailedPreconditionError(
        absl::StrCat("refusing to talk in plain text to ", target,
                     " over a network: give --tls-ca (the bundle that its certificate is checked with), or pass "
                     "--insecure if the network protects the connection"));
  }
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(WatchFiles(options));
  if (!options.authority.empty()) tls.watch_root_certs();
  if (!options.certificate.empty()) tls.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(tls);
}

}  // namespace turbofleet
