#include "tests/common/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>

namespace turbofleet {
namespace {

using CertificatePtr = std::unique_ptr<X509, decltype(&X509_free)>;
using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using FilePtr = std::unique_ptr<FILE, decltype(&fclose)>;

void AddExtension(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  if (extension == nullptr) std::abort();
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

CertificatePtr MakeCertificate(const std::string& subject, EVP_PKEY* key, long ends_in_seconds) {
  static long serial = 1;
  CertificatePtr certificate(X509_new(), X509_free);
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial++);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -7200);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), ends_in_seconds);
  X509_set_pubkey(certificate.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(subject.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

struct TestAuthority::State {
  KeyPtr key{EVP_EC_gen("P-256"), EVP_PKEY_free};
  CertificatePtr certificate{nullptr, X509_free};
};

TestAuthority::TestAuthority(const std::string& name) : state_(std::make_unique<State>()) {
  state_->certificate = MakeCertificate(name, state_->key.get(), 3600);
  X509* certificate = state_->certificate.get();
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  AddExtension(certificate, certificate, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  X509_sign(certificate, state_->key.get(), EVP_sha256());
}

TestAuthority::~TestAuthority() = default;

void TestAuthority::Issue(const Leaf& leaf) const {
  const KeyPtr key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  const CertificatePtr certificate = MakeCertificate(leaf.name, key.get(), leaf.expired ? -3600 : 3600);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(state_->certificate.get()));
  AddExtension(certificate.get(), state_->certificate.get(), NID_subject_alt_name, "DNS:" + leaf.name);
  X509_sign(certificate.get(), state_->key.get(), EVP_sha256());
  const FilePtr certificate_file(std::fopen(leaf.certificate.c_str(), "w"), fclose);
  PEM_write_X509(certificate_file.get(), certificate.get());
  const FilePtr key_file(std::fopen(leaf.key.c_str(), "w"), fclose);
  PEM_write_PrivateKey(key_file.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
}

void TestAuthority::WriteCertificate(const std::filesystem::path& path) const {
  const FilePtr file(std::fopen(path.c_str(), "w"), fclose);
  PEM_write_X509(file.get(), state_->certificate.get());
}

}  // namespace turbofleet
