#include "common/errors.h"

#include "absl/strings/cord.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/grpcpp.h"
#include "tests/support/status_matchers.h"
#include "turbofleet/v1/cluster_service.grpc.pb.h"

namespace turbofleet {
namespace {

using ::testing::HasSubstr;

// Answers every call with one error.
class FailingService : public v1::ClusterService::CallbackService {
 public:
  explicit FailingService(absl::Status status) : status_(std::move(status)) {}

  grpc::ServerUnaryReactor* GetCluster(grpc::CallbackServerContext* context, const v1::GetClusterRequest*,
                                       v1::Cluster*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status_));
    return reactor;
  }

 private:
  const absl::Status status_;
};

// What a client sees of `status` after a real connection.
absl::Status OverTheWire(const absl::Status& status) {
  FailingService service(status);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const auto stub = v1::ClusterService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  v1::Cluster cluster;
  return FromGrpcStatus(stub->GetCluster(&context, {}, &cluster));
}

template <typename Message>
Message DetailOf(const absl::Status& status) {
  Message message;
  const auto payload = status.GetPayload("type.googleapis.com/" + std::string(Message::descriptor()->full_name()));
  EXPECT_TRUE(payload.has_value()) << status;
  if (payload.has_value()) {
    EXPECT_TRUE(message.ParseFromString(std::string(*payload)));
  }
  return message;
}

TEST(ErrorsTest, EveryDetailSurvivesTheWire) {
  absl::Status status = MakeError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "the queue is full",
                                  {{"images_queued_max", "1000"}, {"queue", "bulk"}});
  status = WithRetryAfter(status, absl::Milliseconds(2500));
  status = WithQuotaFailure(status, "images_queued_max", "1,000 images wait already");
  status = WithQuotaFailure(status, "jobs_max", "10 jobs run already");

  const absl::Status received = OverTheWire(status);

  EXPECT_EQ(received, status);
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kResourceExhausted, "the queue is full"));
  EXPECT_EQ(ReasonOf(received), "QUEUE_FULL");
  EXPECT_EQ(RetryAfterOf(received), absl::Milliseconds(2500));
  const auto info = DetailOf<google::rpc::ErrorInfo>(received);
  EXPECT_EQ(info.domain(), "turbofleet.dev");
  EXPECT_EQ(info.metadata().at("images_queued_max"), "1000");
  EXPECT_EQ(info.metadata().at("queue"), "bulk");
  const auto quota = DetailOf<google::rpc::QuotaFailure>(received);
  ASSERT_EQ(quota.violations_size(), 2);
  EXPECT_EQ(quota.violations(0).subject(), "images_queued_max");
  EXPECT_EQ(quota.violations(0).description(), "1,000 images wait already");
  EXPECT_EQ(quota.violations(1).subject(), "jobs_max");
}

TEST(ErrorsTest, AnInvalidFieldIsNamedForPeopleAndPrograms) {
  const absl::Status received = OverTheWire(InvalidField("prompts[3]", "must not be empty"));
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kInvalidArgument, "prompts[3]: must not be empty"));
  EXPECT_EQ(ReasonOf(received), "INVALID_FIELD");
  const auto request = DetailOf<google::rpc::BadRequest>(received);
  ASSERT_EQ(request.field_violations_size(), 1);
  EXPECT_EQ(request.field_violations(0).field(), "prompts[3]");
  EXPECT_EQ(request.field_violations(0).description(), "must not be empty");
}

TEST(ErrorsTest, EveryCodeMapsToItself) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(static_cast<int>(ToGrpcStatus(status).error_code()), code);
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
}

TEST(ErrorsTest, AnnotationKeepsTheReason) {
  const absl::Status status = Annotate(InvalidField("width", "must be a multiple of 8"), "image 4");
  EXPECT_EQ(ReasonOf(FromGrpcStatus(ToGrpcStatus(status))), "INVALID_FIELD");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, "image 4: width: must be a multiple of 8"));
}

TEST(ErrorsTest, PlainErrorsHaveNoReasonAndNoDelay) {
  const absl::Status status = OverTheWire(absl::NotFoundError("no such job"));
  EXPECT_EQ(ReasonOf(status), "");
  EXPECT_EQ(RetryAfterOf(status), std::nullopt);
}

// A header above the peer's limit would replace the error by one about the header.
TEST(ErrorsTest, AHugeMessageIsCutAndTheReasonArrives) {
  const std::string huge(1'000'000, '\n');  // Three bytes each in the header.
  const absl::Status received = OverTheWire(WithQuotaFailure(InvalidField(huge, huge), "images_queued_max", huge));
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("...")));
  EXPECT_EQ(ReasonOf(received), "INVALID_FIELD");
}

TEST(ErrorsTest, DetailsThatDoNotFitStayBehindAndTheErrorArrives) {
  std::map<std::string, std::string> metadata;
  for (int i = 0; i < 100; ++i) metadata[std::to_string(i)] = std::string(500, 'a');
  const absl::Status status = MakeError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no such job", metadata);
  const absl::Status received = OverTheWire(WithRetryAfter(status, absl::Seconds(1)));
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kNotFound, "no such job"));
  EXPECT_EQ(RetryAfterOf(received), absl::Seconds(1)) << "the small detail fits";
}

TEST(ErrorsTest, BytesThatAreNoTextAreReplaced) {
  const absl::Status received = OverTheWire(InvalidField("prompts[0]", "bad byte \xFF here"));
  EXPECT_THAT(received, StatusIs(absl::StatusCode::kInvalidArgument, "prompts[0]: bad byte \xEF\xBF\xBD here"));
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(received).field_violations(0).description(),
            "bad byte \xEF\xBF\xBD here");
}

TEST(ErrorsTest, GarbageFromAPeerIsOnlyAPlainError) {
  const grpc::Status garbage(grpc::StatusCode::UNAVAILABLE, "gone", "\xFF\xFF not a message");
  const absl::Status status = FromGrpcStatus(garbage);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, "gone"));
  EXPECT_EQ(ReasonOf(status), "");
}

TEST(ErrorsTest, DelaysStayWithinADay) {
  const absl::Status status = absl::UnavailableError("later");
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(status, absl::InfiniteDuration())), absl::Hours(24));
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(status, absl::Seconds(-1))), absl::ZeroDuration());
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(status, absl::Nanoseconds(1))), absl::Nanoseconds(1));
}

}  // namespace
}  // namespace turbofleet
