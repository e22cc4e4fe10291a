#include "coordinator/dispatch/store_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace turbofleet {
namespace {

// Without work for so long, the store may tidy up.
constexpr absl::Duration kIdle = absl::Seconds(5);

}  // namespace

StoreQueue::StoreQueue(const Options& options, JobStore* store, Spool* spool)
    : options_(options), store_(store), spool_(spool) {}

StoreQueue::~StoreQueue() { Stop(); }

void StoreQueue::Post(Work work, Done done) {
  absl::MutexLock lock(&mu_);
  pieces_.push_back({std::move(work), std::move(done)});
}

bool StoreQueue::RunOnce() {
  std::vector<Piece> pieces;
  {
    absl::MutexLock lock(&mu_);
    const auto end = pieces_.begin() + static_cast<int64_t>(std::min(pieces_.size(), options_.pieces_max));
    pieces.assign(std::make_move_iterator(pieces_.begin()), std::make_move_iterator(end));
    pieces_.erase(pieces_.begin(), end);
  }
  if (pieces.empty()) return false;
  const absl::Status status = store_->Transact([&] {
    for (const Piece& piece : pieces) piece.work(*store_, *spool_);
    // Before the transaction says so, the pictures have to be where it says they are.
    return spool_->Sync();
  });
  if (!status.ok()) {
    absl::MutexLock lock(&mu_);
    ++failed_;
  }
  for (const Piece& piece : pieces) piece.done(status);
  return true;
}

void StoreQueue::Start() {
  thread_ = std::thread([this] { Run(); });
}

void StoreQueue::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void StoreQueue::Run() {
  absl::Duration patience = kIdle;
  while (true) {
    bool idle = false;
    {
      absl::MutexLock lock(&mu_);
      idle = !mu_.AwaitWithTimeout(absl::Condition(this, &StoreQueue::HasWork), patience);
      if (!idle) {
        if (pieces_.empty()) return;
        mu_.AwaitWithTimeout(absl::Condition(this, &StoreQueue::IsFull), options_.gather);
      }
    }
    if (idle) {
      // As long as there is upkeep left, nothing but work comes before it.
      patience = store_->Idle() ? absl::ZeroDuration() : absl::InfiniteDuration();
    } else {
      RunOnce();
      patience = kIdle;
    }
  }
}

int64_t StoreQueue::failed() const {
  absl::MutexLock lock(&mu_);
  return failed_;
}

size_t StoreQueue::waiting() const {
  absl::MutexLock lock(&mu_);
  return pieces_.size();
}

}  // namespace turbofleet
