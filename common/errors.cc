#include "common/errors.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/text.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace turbofleet {
namespace {

constexpr char kTypePrefix[] = "type.googleapis.com/";
// Trailers travel in HTTP/2 headers, which peers limit to 8 KiB: an error must not fail because it explains too much.
// The message is sent twice, once percent-encoded; the details in Base64.
constexpr size_t kMessageBytesMax = 768;
constexpr size_t kDetailBytesMax = 2560;
constexpr absl::Duration kRetryDelayMax = absl::Hours(24);

template <typename Message>
std::string UrlOf() {
  return absl::StrCat(kTypePrefix, Message::descriptor()->full_name());
}

template <typename Message>
std::optional<Message> GetDetail(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(UrlOf<Message>());
  Message message;
  if (!payload.has_value() || !message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

template <typename Message>
void SetDetail(const Message& message, absl::Status* status) {
  status->SetPayload(UrlOf<Message>(), absl::Cord(message.SerializeAsString()));
}

// Proto strings have to be UTF-8, and a message may quote what a client sent.
std::string Clean(const std::string& text) { return TruncateUtf8(ReplaceInvalidUtf8(text), kMessageBytesMax); }

}  // namespace

absl::Status MakeError(absl::StatusCode code, const std::string& reason, const std::string& message,
                       const std::map<std::string, std::string>& metadata) {
  absl::Status status(code, Clean(message));
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[Clean(key)] = Clean(value);
  SetDetail(info, &status);
  return status;
}

absl::Status InvalidField(const std::string& field, const std::string& description) {
  absl::Status status =
      MakeError(absl::StatusCode::kInvalidArgument, "INVALID_FIELD", absl::StrCat(field, ": ", description));
  google::rpc::BadRequest request;
  google::rpc::BadRequest::FieldViolation* violation = request.add_field_violations();
  violation->set_field(Clean(field));
  violation->set_description(Clean(description));
  SetDetail(request, &status);
  return status;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo info;
  absl::Duration rest;
  const int64_t seconds =
      absl::IDivDuration(std::clamp(delay, absl::ZeroDuration(), kRetryDelayMax), absl::Seconds(1), &rest);
  info.mutable_retry_delay()->set_seconds(seconds);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  SetDetail(info, &status);
  return status;
}

absl::Status WithQuotaFailure(absl::Status status, const std::string& subject, const std::string& description) {
  google::rpc::QuotaFailure failure =
      GetDetail<google::rpc::QuotaFailure>(status).value_or(google::rpc::QuotaFailure());
  google::rpc::QuotaFailure::Violation* violation = failure.add_violations();
  violation->set_subject(Clean(subject));
  violation->set_description(Clean(description));
  SetDetail(failure, &status);
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const std::optional<google::rpc::ErrorInfo> info = GetDetail<google::rpc::ErrorInfo>(status);
  return info.has_value() ? info->reason() : "";
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const std::optional<google::rpc::RetryInfo> info = GetDetail<google::rpc::RetryInfo>(status);
  if (!info.has_value()) return std::nullopt;
  return absl::Seconds(info->retry_delay().seconds()) + absl::Nanoseconds(info->retry_delay().nanos());
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.raw_code());
  const std::string message = Clean(std::string(status.message()));
  // Sorted by size, so that equal errors are equal bytes, and what has to be left out is the largest.
  std::set<std::tuple<size_t, std::string, std::string>> payloads;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    payloads.emplace(payload.size(), std::string(url), std::string(payload));
  });
  if (payloads.empty()) return grpc::Status(code, message);
  google::rpc::Status wire;
  wire.set_code(code);
  wire.set_message(message);
  size_t bytes = 0;
  for (const auto& [size, url, payload] : payloads) {
    bytes += url.size() + size;
    if (bytes > kDetailBytesMax) break;
    google::protobuf::Any* detail = wire.add_details();
    detail->set_type_url(url);
    detail->set_value(payload);
  }
  return grpc::Status(code, message, wire.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status wire;
  if (!wire.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& detail : wire.details()) {
    result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

}  // namespace turbofleet
