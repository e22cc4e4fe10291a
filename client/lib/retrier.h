// When a call is tried again, and after which wait: what all calls have in common.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/lib/connection.h"

namespace turbofleet::client {

// INTERNAL with kReasonProtocolViolation: "the coordinator <what>".
absl::Status ProtocolViolation(const std::string& what);

// Whether the network cut the stream. The coordinator gives a reason with each of its own errors; proxies and dying
// servers do not, and they do not only say UNAVAILABLE.
bool IsBrokenStream(const absl::Status& error);

// The tries of one call. Thread-compatible; used once.
class Retrier {
 public:
  // All arguments outlive it. The time of `options` starts now.
  Retrier(const Connection::Dependencies& dependencies, const RetryPolicy& policy, const GenerateOptions& options);

  // CANCELLED, DEADLINE_EXCEEDED: there is no use in another try.
  absl::Status Check() const;

  // How the next try is to be made.
  CallOptions NextCall() const;

  // Makes an idempotent call, `make(NextCall())`, until it succeeds or there is no use in another try.
  template <typename Make>
  auto Call(const Make& make) -> decltype(make(CallOptions())) {
    failures_ = 0;
    while (true) {
      if (absl::Status status = Check(); !status.ok()) return status;
      auto result = make(NextCall());
      if (result.ok()) return result;
      // Where there is an answer there is a coordinator, and something on the way that broke it.
      const bool resumable = !absl::IsUnavailable(result.status());
      if (absl::Status status = WaitToRetry(result.status(), resumable, /*progress=*/false); !status.ok()) {
        return status;
      }
    }
  }

  // OK after a wait if there may be one more try after one that ended with `error`; otherwise what the call ends with.
  // `resumable`: what there was before a broken stream is not lost. `progress`: the try has brought something new.
  absl::Status WaitToRetry(const absl::Status& error, bool resumable, bool progress);

 private:
  enum class Patience { kNone, kConnect, kBusy, kResume };

  static Patience PatienceAfter(const absl::Status& error, bool resumable);
  int AttemptsMax(Patience patience) const;
  absl::Duration DelayBeforeRetry(const absl::Status& error) const;
  absl::Duration TimeLeft() const;

  const Connection::Dependencies& dependencies_;
  const RetryPolicy& policy_;
  const GenerateOptions& options_;
  const absl::Time deadline_;
  int failures_ = 0;  // Tries without progress between them.
};

}  // namespace turbofleet::client
