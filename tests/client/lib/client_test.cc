// The client over a real connection on loopback, against services that do what a test says.
#include "turbofleet/client.h"

#include <functional>
#include <utility>

#include "common/errors.h"
#include "common/grpc_server.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"
#include "turbofleet/v1/image_service.grpc.pb.h"

namespace turbofleet::client {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using Writer = grpc::ServerWriter<v1::GenerateImagesResponse>;
using Handler = std::function<absl::Status(const v1::GenerateImagesRequest& request, Writer* writer)>;

class FakeImages : public v1::ImageService::Service {
 public:
  grpc::Status GenerateImages(grpc::ServerContext*, const v1::GenerateImagesRequest* request, Writer* writer) override {
    const int turn = calls_++;
    return ToGrpcStatus(handlers.at(std::min<size_t>(turn, handlers.size() - 1))(*request, writer));
  }

  int calls() const { return calls_; }

  std::vector<Handler> handlers;  // By call; the last one goes on. Constant once there is a server.

 private:
  std::atomic<int> calls_ = 0;
};

class FakeClusterService : public v1::ClusterService::Service {
 public:
  grpc::Status GetCluster(grpc::ServerContext*, const v1::GetClusterRequest*, v1::Cluster* cluster) override {
    cluster->set_version("1.2.3");
    cluster->mutable_start_time()->set_seconds(1'700'000'000);
    cluster->set_draining(true);
    cluster->set_images_queued(7);
    v1::Model& model = *cluster->add_models();
    model.set_digest("sha256:aa");
    model.set_name("sd-turbo");
    model.set_workers(2);
    return grpc::Status::OK;
  }
  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    v1::Worker& worker = *response->add_workers();
    worker.set_name("workers/w1");
    worker.set_state(v1::Worker::STATE_BUSY);
    worker.set_device("cuda:0");
    response->add_workers()->set_state(static_cast<v1::Worker::State>(99));
    return grpc::Status::OK;
  }
};

class ClientTest : public ::testing::Test {
 protected:
  ~ClientTest() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

  Client Connect(std::vector<Handler> handlers, const RetryPolicy& policy = {}) {
    images_.handlers = std::move(handlers);
    grpc::ServerBuilder builder;
    ApplyServerLimits({}, &builder);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&images_);
    builder.RegisterService(&cluster_);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    return *Client::Connect({.coordinator = "127.0.0.1:" + std::to_string(port), .security = {}, .retry = policy});
  }

  absl::Status Generate(Client* client, const GenerateOptions& options = {}) {
    return client->GenerateImages({.prompts = {"a"}, .seed = 5, .count = 2}, options, [this](GenerateEvent event) {
      if (auto* image = std::get_if<Image>(&event)) arrived_.push_back(std::move(*image));
      on_event_();
    });
  }

  FakeImages images_;
  FakeClusterService cluster_;
  std::unique_ptr<grpc::Server> server_;
  std::vector<Image> arrived_;
  std::function<void()> on_event_ = [] {};
};

constexpr RetryPolicy kQuick = {.connect_attempts_max = 3, .delay_initial = absl::Milliseconds(1)};

void Accept(const v1::GenerateImagesRequest& request, Writer* writer) {
  v1::GenerateImagesResponse response;
  v1::Accepted& accepted = *response.mutable_accepted();
  accepted.set_job("jobs/1");
  accepted.set_width(64);
  accepted.set_height(64);
  accepted.set_steps(1);
  accepted.set_strength(1);
  accepted.set_model_digest("sha256:aa");
  if (request.seeds_size() > 0) *accepted.mutable_seeds() = request.seeds();
  for (int i = 0; i < request.count(); ++i) accepted.add_seeds(request.seed() + static_cast<uint64_t>(i));
  accepted.set_image_count(accepted.seeds_size());
  writer->Write(response);
}

void SendImage(int index, uint64_t seed, Writer* writer, size_t bytes = 3) {
  v1::GenerateImagesResponse response;
  response.mutable_image()->set_index(index);
  response.mutable_image()->set_seed(seed);
  response.mutable_image()->set_format(v1::IMAGE_FORMAT_RAW);
  response.mutable_image()->set_content(std::string(bytes, '\x80'));
  writer->Write(response);
}

// Says nothing that matters until the caller is gone.
void SendUntilGone(Writer* writer) {
  while (writer->Write({})) {
  }
}

// More than the 4 MiB that gRPC takes unless told otherwise.
TEST_F(ClientTest, LargeImagesArriveWhole) {
  Client client = Connect({[](const auto& request, Writer* writer) {
    Accept(request, writer);
    SendImage(1, 6, writer, 6 << 20);
    SendImage(0, 5, writer);
    return absl::OkStatus();
  }});
  TURBOFLEET_ASSERT_OK(Generate(&client));
  ASSERT_THAT(arrived_, SizeIs(2));
  EXPECT_EQ(arrived_[0].content, std::string(6 << 20, '\x80'));
  EXPECT_EQ(arrived_[0].format, FileFormat::kRaw);
}

TEST_F(ClientTest, RefusalsArriveWithAllTheirDetails) {
  Client client = Connect({[](const auto&, Writer*) { return InvalidField("prompts[0]", "is in bad taste"); }});
  const absl::Status status = Generate(&client);
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, "prompts[0]: is in bad taste"));
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELD");
  EXPECT_THAT(BadFieldsOf(status), ElementsAre("prompts[0]"));
  EXPECT_EQ(images_.calls(), 1);
}

TEST_F(ClientTest, TheDelayThatAServerAsksForArrives) {
  Client client = Connect({[](const auto&, Writer*) {
    return WithRetryAfter(MakeError(StatusCode::kResourceExhausted, "QUEUE_FULL", "full"), absl::Hours(1));
  }});
  const absl::Status status = Generate(&client);
  EXPECT_EQ(RetryAfterOf(status), absl::Hours(1));
  EXPECT_EQ(images_.calls(), 1);
}

TEST_F(ClientTest, ABrokenStreamIsResumedForWhatIsMissing) {
  Client client = Connect({[](const auto& request, Writer* writer) {
                             Accept(request, writer);
                             SendImage(1, 6, writer);
                             return absl::UnavailableError("going away");
                           },
                           [](const auto& request, Writer* writer) {
                             Accept(request, writer);
                             EXPECT_THAT(request.seeds(), ElementsAre(5));
                             SendImage(0, 5, writer);
                             return absl::OkStatus();
                           }},
                          kQuick);
  TURBOFLEET_ASSERT_OK(Generate(&client));
  ASSERT_THAT(arrived_, SizeIs(2));
  EXPECT_EQ(arrived_[0].index, 1);
  EXPECT_EQ(arrived_[1].index, 0);
}

TEST_F(ClientTest, AStopReachesTheServer) {
  std::stop_source stop;
  Client client = Connect({[](const auto& request, Writer* writer) {
    Accept(request, writer);
    SendImage(0, 5, writer);
    SendUntilGone(writer);  // Returns only because of the stop.
    return absl::OkStatus();
  }});
  on_event_ = [&] {
    if (!arrived_.empty()) stop.request_stop();
  };
  EXPECT_THAT(Generate(&client, {.timeout = {}, .stop = stop.get_token(), .on_retry = {}}),
              StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(arrived_, SizeIs(1));
}

TEST_F(ClientTest, ADeadlineEndsTheCallOnBothSides) {
  Client client = Connect({[](const auto& request, Writer* writer) {
    Accept(request, writer);
    SendUntilGone(writer);
    return absl::OkStatus();
  }});
  EXPECT_THAT(Generate(&client, {.timeout = absl::Milliseconds(50)}), StatusIs(StatusCode::kDeadlineExceeded));
}

TEST_F(ClientTest, AViolationOfTheProtocolEndsTheCallOnBothSides) {
  Client client = Connect({[](const auto& request, Writer* writer) {
    Accept(request, writer);
    SendImage(7, 5, writer);
    SendUntilGone(writer);
    return absl::OkStatus();
  }});
  EXPECT_EQ(ReasonOf(Generate(&client)), kReasonProtocolViolation);
}

TEST_F(ClientTest, TheStateOfTheClusterArrives) {
  Client client = Connect({});
  const auto cluster = client.GetCluster();
  TURBOFLEET_ASSERT_OK(cluster);
  EXPECT_EQ(cluster->version, "1.2.3");
  EXPECT_EQ(cluster->start_time, absl::FromUnixSeconds(1'700'000'000));
  EXPECT_TRUE(cluster->draining);
  EXPECT_EQ(cluster->images_queued, 7);
  ASSERT_THAT(cluster->models, SizeIs(1));
  EXPECT_EQ(cluster->models[0].name, "sd-turbo");
  const auto workers = client.ListWorkers();
  TURBOFLEET_ASSERT_OK(workers);
  ASSERT_THAT(*workers, SizeIs(2));
  EXPECT_EQ(workers->at(0).name, "workers/w1");
  EXPECT_EQ(workers->at(0).state, "busy");
  EXPECT_EQ(workers->at(0).device, "cuda:0");
  EXPECT_EQ(workers->at(1).state, "unknown");
}

TEST_F(ClientTest, NobodyThereIsUnavailable) {
  Client client = Connect({}, kQuick);
  server_->Shutdown();
  server_.reset();
  EXPECT_THAT(Generate(&client), StatusIs(StatusCode::kUnavailable, HasSubstr("gave up after 3 tries")));
  EXPECT_THAT(client.GetCluster(), StatusIs(StatusCode::kUnavailable));
}

TEST(ClientConnectTest, WhatCannotWorkIsRefusedBeforeTheNetworkIsTouched) {
  const auto connect = [](const std::string& coordinator, const TransportSecurity& security) {
    return Client::Connect({.coordinator = coordinator, .security = security, .retry = {}}).status();
  };
  for (const std::string address : {"", "localhost", "localhost:0x1", "localhost:99999", ":"}) {
    EXPECT_THAT(connect(address, {}), StatusIs(StatusCode::kInvalidArgument)) << address;
  }
  EXPECT_THAT(connect("192.0.2.1:50051", {}), StatusIs(StatusCode::kFailedPrecondition));
  TURBOFLEET_EXPECT_OK(connect("192.0.2.1:50051", {.insecure = true}));
  EXPECT_THAT(connect("192.0.2.1:50051", {.authority = "/nowhere/ca.pem"}), StatusIs(StatusCode::kNotFound));
  TURBOFLEET_EXPECT_OK(connect("unix:/tmp/turbofleet.sock", {}));
  TURBOFLEET_EXPECT_OK(connect("localhost:50051", {}));
}

}  // namespace
}  // namespace turbofleet::client
