// What the scheduler keeps of jobs, tenants, workers and leases. Only Scheduler uses it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler/cost_model.h"
#include "coordinator/scheduler/fair_clock.h"
#include "coordinator/scheduler/image_ranges.h"
#include "coordinator/scheduler/types.h"

namespace turbofleet::books {

struct Lane;
struct Pool;
struct Session;

// An image that was leased before, or is leased twice, and has not ended. Most images never need one.
struct TriedImage {
  int32_t attempts = 0;                                     // That count.
  int32_t crashes = 0;                                      // Workers that died while they had it on the device.
  std::string avoid;                                        // The worker that last failed it.
  int32_t batch_max = std::numeric_limits<int32_t>::max();  // The most images it may travel with, itself included.
  absl::Time queued_at;
  std::vector<LeaseId> leases;  // That hold it; at most two. None: it is queued.
  bool hedged = false;
};

// A tenant of one class and model.
struct Tenant {
  std::string name;
  uint64_t number = 0;  // By when it came.
  int32_t weight = 1;
  int64_t virtual_time = 0;
  FairClock clock;           // Of its jobs.
  int64_t jobs = 0;          // It goes with its last one, as soon as it owes nothing.
  std::vector<Lane*> lanes;  // Those in whose queue it stands.
};

struct Job {
  JobId id{};
  JobClass job_class = JobClass::kNormal;
  Lane* lane = nullptr;
  Tenant* tenant = nullptr;
  int64_t prompt_bytes = 0;
  absl::Time deadline;
  bool open_ended = false;
  int32_t images_left = 0;  // That have not ended, unless it is open-ended.
  ImageRanges fresh;        // Queued and never leased.
  std::map<int32_t, TriedImage> tried;
  std::set<int32_t> returned;         // Those of `tried` that are queued.
  std::map<LeaseId, int32_t> leases;  // How many open images of the job each has.
  int64_t images_leased = 0;
  int64_t virtual_time = 0;
  bool paused = false;
  bool expired = false;

  // How it is filed at present; see Scheduler::Refile().
  int64_t counted = 0;       // Queued images in the books.
  int64_t lane_counted = 0;  // The same, in its lane's: none while it is paused.
  bool stands = false;       // In its tenant's queue in the lane.
  std::optional<int64_t> turn;
  bool in_returns = false;
  std::optional<absl::Time> oldest;

  int64_t Queued() const { return fresh.size() + static_cast<int64_t>(returned.size()); }
};

// A tenant's jobs that wait in a lane.
struct TenantQueue {
  Tenant* tenant = nullptr;
  std::map<std::pair<int64_t, JobId>, Job*> turns;  // With fresh images, by virtual time.
  std::map<JobId, Job*> returns;                    // With returned ones.
};
// By virtual time and the tenant's number.
using TenantQueues = std::map<std::pair<int64_t, uint64_t>, TenantQueue>;

// What can share a batch: one model, one shape.
struct Lane {
  Pool* pool = nullptr;
  BatchShape shape;
  std::array<TenantQueues, kJobClasses> queues;
  std::array<int64_t, kJobClasses> images_queued{};  // Of jobs that are not paused.
  int64_t images_leased = 0;
  std::map<SessionId, int32_t> images_leased_by;
  int64_t jobs = 0;  // A lane goes with its last one.

  int64_t Queued() const { return std::accumulate(images_queued.begin(), images_queued.end(), int64_t{0}); }
};

// The share of a class in a model's workers.
struct ClassShare {
  int64_t virtual_time = 0;
  int64_t images_queued = 0;  // Of jobs that are not paused.
  FairClock clock;            // Of its tenants.
  std::map<std::string, Tenant> tenants;
  std::set<std::pair<int64_t, std::string>> debtors;  // Tenants without jobs that were served ahead of their share.
};

// Who is served first: fewest leases, then the faster ones by powers of two, then the one that is longest without.
using ReadyKey = std::tuple<size_t, int, LeaseId, SessionId>;

// Sessions that can do the same.
struct WorkerGroup {
  Pool* pool = nullptr;
  int32_t size_max = 0;
  bool has_tiny_vae = false;
  int64_t sessions = 0;
  int64_t serving = 0;            // Those that are not leaving, stuck or in quarantine.
  std::multiset<int64_t> speeds;  // Of those of them that have work or ask for some.
  int64_t speed_sum = 0;
  std::map<ReadyKey, Session*> ready;  // Those with credit.

  bool Serves(const BatchShape& shape) const {
    return std::max(shape.width, shape.height) <= size_max && (has_tiny_vae || !shape.tiny_vae);
  }
};

// Everything of one model: its workers can do nothing else, so shares are kept by model.
struct Pool {
  std::string model_digest;
  CostModel costs;
  FairClock clock;  // Of the classes.
  std::array<ClassShare, kJobClasses> classes;
  std::map<BatchShape, Lane> lanes;
  std::map<std::pair<int32_t, bool>, WorkerGroup> groups;
  absl::Time interactive_until = absl::InfinitePast();  // Whether somebody waits, or might come again at once.
  std::deque<std::pair<absl::Time, int64_t>> hedges;    // Of late, with the nanoseconds that they may take.
  int64_t hedged = 0;                                   // Their sum.
};

struct Session {
  SessionId id{};
  WorkerCapacity capacity;
  WorkerGroup* group = nullptr;
  WorkerSpeed speed;
  std::set<LeaseId> leases;  // Those with open images.
  int64_t images_leased = 0;
  int64_t busy = 0;  // Nanoseconds that it is predicted to need for them.
  int64_t batches_sent = 0;
  int64_t batches_taken_max = 0;
  LeaseId last_lease_sent{};
  std::optional<BatchShape> last_shape;
  absl::Time last_report;
  absl::Time last_progress;  // Or when it got something to do.
  uint64_t progress = 0;
  bool draining = false;
  bool stuck = false;
  int32_t device_failures = 0;  // Leases in a row on which the device failed.
  LeaseId last_device_failure{};
  std::optional<absl::Time> quarantined_until;

  // How it is filed at present; see Scheduler::Reindex().
  bool counted_serving = false;
  std::optional<int64_t> counted_speed;
  std::optional<ReadyKey> ready;
  absl::Time expiry = absl::InfiniteFuture();

  bool Serving() const { return !draining && !stuck && !quarantined_until.has_value(); }
};

// One image of a lease.
struct Slot {
  Job* job = nullptr;  // Only while it is open.
  ImageId image;
  int32_t attempt = 1;  // Which one this is.
  int64_t cost = 0;     // Nanoseconds that it is predicted to take here.
  int64_t charged = 0;  // What of that its job, tenant and class were charged. A hedge is free at first.
  absl::Time queued_at;
  bool open = true;  // Has not ended and was not taken back.
};

struct HeldLease {
  LeaseId id{};
  Session* session = nullptr;
  absl::Time leased_at;
  std::vector<Slot> slots;
  int32_t open_count = 0;
  int64_t predicted = 0;                         // Nanoseconds on the device.
  bool started = false;                          // The worker said so.
  absl::Time hedge_at = absl::InfiniteFuture();  // When it is so late that another may try.
};

}  // namespace turbofleet::books
