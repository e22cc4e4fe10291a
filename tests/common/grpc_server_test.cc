#include "common/grpc_server.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"

namespace turbofleet {
namespace {

// Answers with a page of workers whose token has the wanted size.
class EchoService : public v1::ClusterService::Service {
 public:
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override {
    response->set_next_page_token(request->page_token());
    return grpc::Status::OK;
  }
};

class GrpcServerTest : public ::testing::Test {
 protected:
  void Serve(const GrpcServerLimits& limits) {
    grpc::ServerBuilder builder;
    ApplyServerLimits(limits, &builder);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }

  grpc::Status Echo(size_t bytes, grpc_compression_algorithm compression = GRPC_COMPRESS_NONE) {
    const auto stub = v1::ClusterService::NewStub(grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials(), MakeChannelArguments()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    context.set_compression_algorithm(compression);
    v1::ListWorkersRequest request;
    request.set_page_token(std::string(bytes, 'a'));
    v1::ListWorkersResponse response;
    grpc::Status status = stub->ListWorkers(&context, request, &response);
    EXPECT_EQ(response.next_page_token().size(), status.ok() ? bytes : 0);
    return status;
  }

  EchoService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

TEST_F(GrpcServerTest, MessagesUpToTheLimitPassBothWays) {
  Serve({.receive_bytes_max = 8 << 20, .send_bytes_max = 8 << 20});
  EXPECT_TRUE(Echo((8 << 20) - 100).ok());
}

TEST_F(GrpcServerTest, LargerMessagesAreRefusedAndTheServerLives) {
  Serve({.receive_bytes_max = 1 << 20});
  EXPECT_EQ(Echo((1 << 20) + 1).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Echo(1000).ok());
}

// One megabyte of zip can hold a gigabyte of zeros.
TEST_F(GrpcServerTest, CompressedMessagesAreRefused) {
  Serve({});
  EXPECT_EQ(Echo(100'000, GRPC_COMPRESS_GZIP).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Echo(100'000, GRPC_COMPRESS_DEFLATE).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_TRUE(Echo(100'000).ok());
}

// Half of all connections would go to the wrong one.
TEST_F(GrpcServerTest, TwoServersCannotShareAPort) {
  Serve({});
  grpc::ServerBuilder builder;
  ApplyServerLimits({}, &builder);
  EchoService service;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  EXPECT_EQ(builder.BuildAndStart(), nullptr);
}

}  // namespace
}  // namespace turbofleet
