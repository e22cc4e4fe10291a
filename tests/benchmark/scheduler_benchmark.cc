// Times the scheduler's decisions on one thread: batches of 10 images are leased and delivered one by one, to 1, 100
// and 500 sessions, beside as many idle jobs as the second argument says. Run: scheduler_benchmark [images] [idle jobs]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/scheduler.h"

namespace turbofleet {
namespace {

constexpr int32_t kBatch = 10;
constexpr int kTenants = 50;
constexpr int32_t kShard = 1'024;

double ProcessorSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Busy {
  JobId id{};
  int32_t added = 0;
};

// Admits `jobs` open-ended jobs; the last ones, one a tenant, have work all the time.
std::vector<Busy> AdmitJobs(Scheduler& scheduler, uint64_t jobs) {
  std::vector<Busy> busy;
  for (uint64_t id = 1; id <= jobs + kTenants; ++id) {
    const bool idle = id <= jobs;
    const JobPlacement placement = {.id = JobId{id},
                                    .tenant = absl::StrCat("t", id % (idle ? 1'000 : kTenants)),
                                    .job_class = static_cast<JobClass>(id % kJobClasses),
                                    .model_digest = "sha256:a",
                                    .shape = {.width = 512, .height = id % 2 == 0 ? 512 : 768}};
    (void)scheduler.Submit(placement, absl::UnixEpoch());
    if (!idle) busy.push_back({.id = placement.id});
  }
  return busy;
}

void Measure(int sessions, int64_t images, uint64_t jobs) {
  Scheduler scheduler({.interactive_memory = absl::ZeroDuration(), .short_batch_time = absl::Hours(1)});
  std::vector<Busy> busy = AdmitJobs(scheduler, jobs);
  std::vector<std::deque<Lease>> held(sessions + 1);
  std::vector<int64_t> taken(sessions + 1, 2);
  absl::Time now = absl::UnixEpoch();
  Effects effects;
  for (int i = 1; i <= sessions; ++i) {
    const SessionId id{static_cast<uint64_t>(i)};
    scheduler.OpenSession(id, {.model_digest = "sha256:a", .size_max = 1'024, .batch_images_max = kBatch}, now);
    (void)scheduler.Report(id, {.batches_taken_max = 2}, now, &effects);
  }
  int64_t delivered = 0;
  int64_t batches = 0;
  const double start = ProcessorSeconds();
  for (int turn = 0; delivered < images; ++turn) {
    now += absl::Milliseconds(100) / sessions;
    if (turn % 16 == 0) {
      for (Busy& job : busy) {
        if (scheduler.Queued(job.id) >= kShard) continue;
        scheduler.AddImages(job.id, job.added, kShard, {}, now);
        job.added += kShard;
      }
      (void)scheduler.Expire(now);
    }
    for (const Lease& lease : scheduler.Assign(now)) held[static_cast<uint64_t>(lease.session)].push_back(lease);
    const int session = 1 + turn % sessions;
    const SessionId id{static_cast<uint64_t>(session)};
    if (held[session].empty()) continue;
    const Lease lease = held[session].front();
    held[session].pop_front();
    for (size_t slot = 0; slot < lease.images.size(); ++slot) {
      (void)scheduler.Deliver(id, lease.id, static_cast<int32_t>(slot), Outcome::kRendered,
                              absl::Milliseconds(9 + turn % 3), now);
    }
    delivered += static_cast<int64_t>(lease.images.size());
    ++batches;
    WorkerReport report = {.batches_taken_max = ++taken[session]};
    for (const Lease& left : held[session]) report.leases.push_back(left.id);
    if (!held[session].empty()) report.last_lease_received = held[session].back().id;
    (void)scheduler.Report(id, report, now, &effects);
  }
  const double seconds = ProcessorSeconds() - start;
  std::printf("%8d sessions %8llu jobs %12.0f images/s %10.0f batches/s %6.1f images a batch\n", sessions,
              static_cast<unsigned long long>(jobs), static_cast<double>(delivered) / seconds,
              static_cast<double>(batches) / seconds, static_cast<double>(delivered) / static_cast<double>(batches));
}

}  // namespace
}  // namespace turbofleet

int main(int argc, char** argv) {
  const int64_t images = argc > 1 ? std::atoll(argv[1]) : 1'000'000;
  const uint64_t jobs = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 100'000;
  for (const int sessions : {1, 100, 500}) turbofleet::Measure(sessions, images, jobs);
  return 0;
}
