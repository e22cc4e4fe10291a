#include "client/lib/retrier.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/status.h"

namespace turbofleet::client {
namespace {

// A server that asks for more patience than this is given up on.
constexpr absl::Duration kServerDelayMax = absl::Minutes(5);

}  // namespace

absl::Status ProtocolViolation(const std::string& what) {
  return MakeError(absl::StatusCode::kInternal, kReasonProtocolViolation, absl::StrCat("the coordinator ", what));
}

bool IsBrokenStream(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kUnavailable:
      return true;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return ReasonOf(error).empty();
    default:
      return false;
  }
}

Retrier::Retrier(const Connection::Dependencies& dependencies, const RetryPolicy& policy,
                 const GenerateOptions& options)
    : dependencies_(dependencies),
      policy_(policy),
      options_(options),
      deadline_(options.timeout.has_value() ? dependencies.clock->Now() + *options.timeout : absl::InfiniteFuture()) {}

absl::Status Retrier::Check() const {
  // The caller's own wish or deadline is told apart from the same code sent by the other side.
  if (options_.stop.stop_requested()) return absl::CancelledError("cancelled by the caller");
  if (TimeLeft() <= absl::ZeroDuration()) return absl::DeadlineExceededError("the deadline passed");
  return absl::OkStatus();
}

CallOptions Retrier::NextCall() const {
  CallOptions call{.timeout = std::nullopt, .stop = options_.stop};
  if (deadline_ != absl::InfiniteFuture()) call.timeout = TimeLeft();
  return call;
}

absl::Status Retrier::WaitToRetry(const absl::Status& error, bool resumable, bool progress) {
  failures_ = progress ? 1 : failures_ + 1;
  if (options_.stop.stop_requested()) return absl::CancelledError("cancelled by the caller");
  const Patience patience = PatienceAfter(error, resumable);
  if (patience == Patience::kNone) return error;
  if (failures_ >= AttemptsMax(patience)) {
    return failures_ == 1 ? error : Annotate(error, absl::StrCat("gave up after ", failures_, " tries"));
  }
  const absl::Duration delay = DelayBeforeRetry(error);
  if (RetryAfterOf(error).value_or(absl::ZeroDuration()) > kServerDelayMax) return error;
  if (delay >= TimeLeft()) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the deadline would pass before another try; the last one ended with: ", std::string(error.message())));
  }
  if (options_.on_retry) options_.on_retry(error, delay);
  dependencies_.sleep(delay, options_.stop);
  return absl::OkStatus();
}

Retrier::Patience Retrier::PatienceAfter(const absl::Status& error, bool resumable) {
  const bool invited = RetryAfterOf(error).has_value();
  if (invited && error.code() == absl::StatusCode::kResourceExhausted) return Patience::kBusy;
  if (resumable && IsBrokenStream(error)) return Patience::kResume;
  if (invited || error.code() == absl::StatusCode::kUnavailable) return Patience::kConnect;
  return Patience::kNone;
}

int Retrier::AttemptsMax(Patience patience) const {
  switch (patience) {
    case Patience::kNone:
      return 1;
    case Patience::kConnect:
      return policy_.connect_attempts_max;
    case Patience::kBusy:
      return policy_.busy_attempts_max;
    case Patience::kResume:
      return policy_.resume_attempts_max;
  }
  return 1;
}

absl::Duration Retrier::DelayBeforeRetry(const absl::Status& error) const {
  absl::Duration delay = policy_.delay_initial;
  for (int i = 1; i < failures_ && delay < policy_.delay_max; ++i) delay *= 2;
  delay = std::min(delay, policy_.delay_max);
  // Down to half of it: clients that lost one coordinator together should not come back together.
  delay *= 1 - dependencies_.random() / 2;
  return std::max(delay, RetryAfterOf(error).value_or(absl::ZeroDuration()));
}

absl::Duration Retrier::TimeLeft() const { return deadline_ - dependencies_.clock->Now(); }

}  // namespace turbofleet::client
