// What a decision has put away to be sent.
#pragma once

#include <memory>
#include <set>

#include "coordinator/dispatch/sinks.h"

namespace turbofleet {

// The sinks to flush. Declared before the dispatcher's lock is taken, so that it does its work after the lock is let
// go.
class Outbox {
 public:
  Outbox() = default;
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;
  ~Outbox() {
    for (const auto& session : sessions_) session->Flush();
    for (const auto& watch : watches_) watch->Flush();
    for (const auto& follower : followers_) follower->Flush();
  }
  WorkerSession& To(const std::shared_ptr<WorkerSession>& session) { return **sessions_.insert(session).first; }
  JobWatch& To(const std::shared_ptr<JobWatch>& watch) { return **watches_.insert(watch).first; }
  JobFollower& To(const std::shared_ptr<JobFollower>& follower) { return **followers_.insert(follower).first; }

 private:
  std::set<std::shared_ptr<WorkerSession>> sessions_;
  std::set<std::shared_ptr<JobWatch>> watches_;
  std::set<std::shared_ptr<JobFollower>> followers_;
};

}  // namespace turbofleet
