#include "common/credentials.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "tests/common/certificates.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"

namespace turbofleet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Answers GetCluster with UNIMPLEMENTED, which proves that a connection was made.
class SilentService : public v1::ClusterService::Service {};

class CredentialsTest : public ::testing::Test {
 protected:
  // gRPC writes a line for each connection that it refuses, which here is most of them.
  static void SetUpTestSuite() { setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0); }

  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / absl::StrCat("credentials_test.", getpid());
    std::filesystem::create_directories(folder_);
    authority_.WriteCertificate(Path("ca.pem"));
    stranger_.WriteCertificate(Path("stranger-ca.pem"));
    authority_.Issue({.name = "localhost", .certificate = Path("server.pem"), .key = Path("server.key")});
    authority_.Issue({.name = "worker-1", .certificate = Path("worker.pem"), .key = Path("worker.key")});
    stranger_.Issue({.name = "worker-1", .certificate = Path("stranger.pem"), .key = Path("stranger.key")});
    std::ofstream(Path("empty.pem")) << "";
    std::ofstream(Path("text.pem")) << "not a certificate\n";
  }

  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  TlsOptions ServerFiles() const { return {.certificate = Path("server.pem"), .key = Path("server.key")}; }

  // Serves on a free loopback port.
  void Serve(const TlsOptions& options) {
    const auto credentials = MakeServerCredentials(options, "localhost:0");
    TURBOFLEET_ASSERT_OK(credentials);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("localhost:0", *credentials, &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(port_, 0);
  }

  // The code of one call on a connection of its own.
  grpc::StatusCode Call(const TlsOptions& options, const std::string& host = "localhost") {
    const auto credentials = MakeChannelCredentials(options, absl::StrCat(host, ":", port_));
    EXPECT_THAT(credentials, IsOk());
    if (!credentials.ok()) return grpc::StatusCode::UNKNOWN;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub =
        v1::ClusterService::NewStub(grpc::CreateCustomChannel(absl::StrCat(host, ":", port_), *credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::Cluster cluster;
    return stub->GetCluster(&context, {}, &cluster).error_code();
  }

  std::filesystem::path folder_;
  const TestAuthority authority_{"Test authority"};
  const TestAuthority stranger_{"Another authority"};
  SilentService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

constexpr grpc::StatusCode kConnected = grpc::StatusCode::UNIMPLEMENTED;
constexpr grpc::StatusCode kRefused = grpc::StatusCode::UNAVAILABLE;

TEST_F(CredentialsTest, PlainTextOnLoopbackIsFine) {
  for (const char* address : {"127.0.0.1:0", "localhost:0", "[::1]:0", "unix:/tmp/x"}) {
    EXPECT_THAT(MakeServerCredentials({}, address), IsOk()) << address;
    EXPECT_THAT(MakeChannelCredentials({}, address), IsOk()) << address;
  }
  Serve({});
  EXPECT_EQ(Call({}), kConnected);
}

// A port that is open to the network by mistake is how clusters are taken over.
TEST_F(CredentialsTest, PlainTextBeyondLoopbackNeedsTheOperatorsWord) {
  for (const char* address : {"0.0.0.0:50051", "[::]:50051", "10.1.2.3:50051", "gpu.example:50051", "nonsense"}) {
    EXPECT_THAT(MakeServerCredentials({}, address),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr(address), HasSubstr("--tls-cert"), HasSubstr("--insecure"))));
    EXPECT_THAT(MakeChannelCredentials({}, address),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr(address), HasSubstr("--tls-ca"), HasSubstr("--insecure"))));
    EXPECT_THAT(MakeServerCredentials({.insecure = true}, address), IsOk());
    EXPECT_THAT(MakeChannelCredentials({.insecure = true}, address), IsOk());
    EXPECT_THAT(MakeServerCredentials(ServerFiles(), address), IsOk());
    EXPECT_THAT(MakeChannelCredentials({.authority = Path("ca.pem")}, address), IsOk());
  }
}

TEST_F(CredentialsTest, TlsChecksTheServer) {
  Serve(ServerFiles());
  EXPECT_EQ(Call({.authority = Path("ca.pem")}), kConnected);
  EXPECT_EQ(Call({.authority = Path("stranger-ca.pem")}), kRefused);
  // The certificate is for "localhost", not for the address.
  EXPECT_EQ(Call({.authority = Path("ca.pem")}, "127.0.0.1"), kRefused);
  EXPECT_EQ(Call({}), kRefused) << "plain text must not get through to a TLS port";
}

TEST_F(CredentialsTest, MutualTlsChecksTheClient) {
  TlsOptions options = ServerFiles();
  options.authority = Path("ca.pem");
  Serve(options);
  const std::string ca = Path("ca.pem");
  EXPECT_EQ(Call({.certificate = Path("worker.pem"), .key = Path("worker.key"), .authority = ca}), kConnected);
  EXPECT_EQ(Call({.authority = ca}), kRefused);
  EXPECT_EQ(Call({.certificate = Path("stranger.pem"), .key = Path("stranger.key"), .authority = ca}), kRefused);
}

// Certificates live for days, servers for months.
TEST_F(CredentialsTest, ARenewedCertificateServesWithoutARestart) {
  const std::filesystem::path current = folder_ / "current";
  for (const char* name : {"old", "new"}) std::filesystem::create_directories(folder_ / name);
  authority_.Issue({.name = "localhost", .certificate = Path("old/tls.crt"), .key = Path("old/tls.key")});
  stranger_.Issue({.name = "localhost", .certificate = Path("new/tls.crt"), .key = Path("new/tls.key")});
  std::filesystem::create_directory_symlink("old", current);
  Serve({.certificate = Path("current/tls.crt"), .key = Path("current/tls.key"), .reload_seconds = 1});
  ASSERT_EQ(Call({.authority = Path("ca.pem")}), kConnected);
  ASSERT_EQ(Call({.authority = Path("stranger-ca.pem")}), kRefused);

  std::filesystem::create_directory_symlink("new", folder_ / "next");
  std::filesystem::rename(folder_ / "next", current);

  const absl::Time give_up = absl::Now() + absl::Seconds(60);
  while (Call({.authority = Path("stranger-ca.pem")}) != kConnected) {
    ASSERT_LT(absl::Now(), give_up) << "the new certificate was never used";
  }
  EXPECT_EQ(Call({.authority = Path("ca.pem")}), kRefused);
}

TEST_F(CredentialsTest, FilesThatCannotServeAreRefusedByFlag) {
  TlsOptions options = ServerFiles();
  options.certificate = Path("missing.pem");
  EXPECT_THAT(MakeServerCredentials(options, "localhost:0"),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("--tls-cert"), HasSubstr("missing.pem"))));
  for (const char* name : {"empty.pem", "text.pem", "server.key"}) {
    options.certificate = Path(name);
    EXPECT_THAT(MakeServerCredentials(options, "localhost:0"),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--tls-cert"), HasSubstr(name))));
  }
  options = ServerFiles();
  options.key = Path("text.pem");
  EXPECT_THAT(MakeServerCredentials(options, "localhost:0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-key")));
  options.key = Path("worker.key");
  EXPECT_THAT(MakeServerCredentials(options, "localhost:0"),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--tls-key"), HasSubstr("not the key"))));
  EXPECT_THAT(MakeChannelCredentials({.authority = Path("text.pem")}, "localhost:1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-ca")));
}

TEST_F(CredentialsTest, ExpiredCertificatesAreRefused) {
  authority_.Issue(
      {.name = "localhost", .expired = true, .certificate = Path("expired.pem"), .key = Path("expired.key")});
  EXPECT_THAT(MakeServerCredentials({.certificate = Path("expired.pem"), .key = Path("expired.key")}, "localhost:0"),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--tls-cert"), HasSubstr("expired"))));
}

TEST_F(CredentialsTest, HalfAPairIsRefused) {
  EXPECT_THAT(MakeServerCredentials({.certificate = Path("server.pem")}, "localhost:0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-key")));
  EXPECT_THAT(MakeServerCredentials({.key = Path("server.key")}, "localhost:0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-cert")));
  EXPECT_THAT(MakeServerCredentials({.authority = Path("ca.pem")}, "localhost:0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-cert")));
}

}  // namespace
}  // namespace turbofleet
