// The sending half of a stream.
#pragma once

#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/status.h"

namespace turbofleet {

// Sends what is pushed, in order, one write at a time, and finishes the stream exactly once. `Reactor` is a callback
// reactor, or something with its StartWrite(const Message*) and Finish(grpc::Status).
//
// It is unbounded: whoever pushes has to know how much the peer is behind.
//
// Thread-safe. Push() and PushEnd() only put away; Flush() and WriteDone() call the reactor, without a lock, and after
// they have finished the stream the reactor is never touched again.
template <typename Reactor, typename Message>
class StreamWriter {
 public:
  explicit StreamWriter(Reactor* reactor) : reactor_(reactor) {}
  StreamWriter(const StreamWriter&) = delete;
  StreamWriter& operator=(const StreamWriter&) = delete;

  // Does nothing after the end was pushed.
  void Push(Message message) {
    absl::MutexLock lock(&mu_);
    if (!end_.has_value()) queue_.push_back(std::move(message));
  }

  // OK comes after all that was pushed. An error overtakes what was not sent, an OK that waits too. The first error
  // stays: later ones tend to follow from it.
  void PushEnd(grpc::Status status) {
    absl::MutexLock lock(&mu_);
    if (end_.has_value() && (!end_->ok() || status.ok())) return;
    if (!status.ok()) queue_.clear();
    end_ = std::move(status);
  }

  // Starts what can be started.
  void Flush() {
    bool write = false;
    bool finish = false;
    grpc::Status status;
    {
      absl::MutexLock lock(&mu_);
      if (writing_ || finished_) return;
      if (!queue_.empty()) {
        in_flight_ = std::move(queue_.front());
        queue_.pop_front();
        write = writing_ = true;
      } else if (end_.has_value()) {
        status = *end_;
        finish = finished_ = true;
      }
    }
    // While a write is under way only its WriteDone() goes on, so in_flight_ and the reactor stay.
    if (write) reactor_->StartWrite(&in_flight_);
    if (finish) reactor_->Finish(status);
  }

  // To be called from OnWriteDone(). Returns what was sent, or nothing if the stream is broken.
  std::optional<Message> WriteDone(bool ok) {
    std::optional<Message> sent;
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (ok) {
        sent = std::move(in_flight_);
      } else {
        queue_.clear();
        if (!end_.has_value() || end_->ok()) end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the stream is broken");
      }
      in_flight_ = Message();
    }
    Flush();
    return sent;
  }

  // How many messages have been pushed and not handed to the network.
  size_t Waiting() const {
    absl::MutexLock lock(&mu_);
    return queue_.size() + (writing_ ? 1 : 0);
  }

  // How the stream ended, or is going to.
  grpc::Status End() const {
    absl::MutexLock lock(&mu_);
    return end_.value_or(grpc::Status::OK);
  }

 private:
  Reactor* const reactor_;
  Message in_flight_;  // Belongs to the write under way while writing_.
  mutable absl::Mutex mu_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace turbofleet
