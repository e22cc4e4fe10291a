// Drives durable jobs through dispatcher, store queue, spool and database as fast as they go, with workers in this
// process that render at once, and prints what was made durable a second.
// Run: control_plane_benchmark [seconds] [folder]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/random.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/dispatch/store_queue.h"
#include "coordinator/dispatch/ticker.h"
#include "coordinator/spool/file_spool.h"
#include "coordinator/store/postgres_job_store.h"
#include "coordinator/store/sqlite_job_store.h"
#include "tests/coordinator/store/postgres_server.h"

namespace turbofleet {
namespace {

constexpr int kWorkers = 64;
constexpr int kBatchImages = 10;
constexpr int kBatchesHeld = 4;
constexpr size_t kPictureBytes = 1'000;
constexpr int32_t kJobImages = 20'000'000;
constexpr int kJobs = 4;

// What a worker was sent and has not delivered. Thread-safe.
class Inbox : public WorkerSession {
 public:
  void PostWelcome(const SessionTerms& terms) override {
    absl::MutexLock lock(&mu_);
    token_ = terms.token;
  }
  void PostBatch(const BatchToRender& batch) override {
    absl::MutexLock lock(&mu_);
    batches_.push_back(batch);
  }
  void PostAbandon(LeaseId /*lease*/, const std::vector<int32_t>& /*slots*/) override {}
  void PostClose(const absl::Status& /*status*/) override {}  // At the end; before it Report() fails.
  void Flush() override {}

  std::vector<BatchToRender> Take() {
    absl::MutexLock lock(&mu_);
    return std::exchange(batches_, {});
  }
  std::string token() const {
    absl::MutexLock lock(&mu_);
    return token_;
  }

 private:
  mutable absl::Mutex mu_;
  std::string token_ ABSL_GUARDED_BY(mu_);
  std::vector<BatchToRender> batches_ ABSL_GUARDED_BY(mu_);
};

// Thread-safe, as the dispatcher tells it with its lock held.
class Counter : public DispatchObserver {
 public:
  void OnImageFinished(const JobSpec& /*spec*/, const FinishedImage& /*image*/) override {
    absl::MutexLock lock(&mu_);
    ++durable_;
  }
  void OnBatch(const BatchToRender& /*batch*/) override {
    absl::MutexLock lock(&mu_);
    ++batches_;
  }
  std::pair<int64_t, int64_t> counts() const {
    absl::MutexLock lock(&mu_);
    return {durable_, batches_};
  }

 private:
  mutable absl::Mutex mu_;
  int64_t durable_ ABSL_GUARDED_BY(mu_) = 0;  // Images whose commit is on the disk.
  int64_t batches_ ABSL_GUARDED_BY(mu_) = 0;
};

struct Worker {
  SessionId id{};
  std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  int64_t taken = 0;
};

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

void Join(Dispatcher& dispatcher, Worker& worker, int number) {
  const auto session = dispatcher.OpenSession({.name = absl::StrCat("worker-", number),
                                               .version = "1",
                                               .model_name = "model",
                                               .model_digest = "sha256:a",
                                               .device = "none",
                                               .device_name = "none",
                                               .precision = "float32",
                                               .default_width = 64,
                                               .default_height = 64,
                                               .size_max = 512,
                                               .batch_images_max = kBatchImages},
                                              worker.inbox);
  if (!session.ok()) Fail(session.status());
  worker.id = *session;
  if (absl::Status status = dispatcher.Report(worker.id, {.batches_taken_max = kBatchesHeld}); !status.ok()) {
    Fail(status);
  }
}

// Renders what the worker has. False if it had nothing.
bool Work(Dispatcher& dispatcher, Worker& worker) {
  const std::vector<BatchToRender> batches = worker.inbox->Take();
  if (batches.empty()) return false;
  const std::string token = worker.inbox->token();
  for (const BatchToRender& batch : batches) {
    for (size_t slot = 0; slot < batch.images.size(); ++slot) {
      dispatcher.Deliver(token, batch.lease, static_cast<int32_t>(slot),
                         Picture{.content = std::string(kPictureBytes, 'x'),
                                 .pixel_sha256 = std::string(64, 'a'),
                                 .batch_size = static_cast<int32_t>(batch.images.size()),
                                 .prompt_tokens_cut = 0,
                                 .stages = {}});
    }
  }
  worker.taken += static_cast<int64_t>(batches.size());
  const absl::Status status = dispatcher.Report(
      worker.id, {.batches_taken_max = worker.taken + kBatchesHeld, .last_lease_received = batches.back().lease});
  if (!status.ok()) Fail(status);
  return true;
}

void Create(JobDesk& desk) {
  JobOrder order;
  order.tenant = std::string(1, 't');
  order.images.prompts = {"a red circle"};
  order.images.first_seed = 1;
  order.images.seeds_per_prompt = kJobImages;
  order.images.tenant = order.tenant;
  order.images.job_class = JobClass::kBulk;
  absl::Notification created;
  desk.Begin(std::move(order), [&](absl::StatusOr<JobDesk::Draft> draft) {
    if (!draft.ok()) Fail(draft.status());
    desk.Submit(*draft, "content", [&](absl::StatusOr<JobView> job) {
      if (!job.ok()) Fail(job.status());
      created.Notify();
    });
  });
  created.WaitForNotification();
}

void Measure(const std::string& name, JobStore& store, const std::string& folder, absl::Duration duration) {
  auto spool = FileSpool::Open({.folder = absl::StrCat(folder, "/spool-", name), .life = "a", .disk_free_min = 1});
  if (!spool.ok()) Fail(spool.status());
  const SteadyClock clock;
  const std::unique_ptr<Logger> logger = MakeNullLogger();
  Counter counter;
  StoreQueue queue({}, &store, spool->get());
  Dispatcher::Options options;
  options.scheduler.batches_held_max = kBatchesHeld;
  options.scheduler.session_timeout = absl::Minutes(10);
  options.scheduler.stuck_timeout = absl::Minutes(10);
  Dispatcher dispatcher(options, {.clock = &clock,
                                  .observer = &counter,
                                  .logger = logger.get(),
                                  .new_name = RandomHex128,
                                  .new_seed = RandomUint32,
                                  .store = &queue,
                                  .spool = spool->get(),
                                  .store_shared = store.shared(),
                                  .on_fenced = [] { Fail(absl::AbortedError("fenced")); }});
  JobDesk desk({}, &dispatcher, &queue, spool->get(), &clock, RandomHex128);
  queue.Start();
  std::vector<Worker> workers(kWorkers);
  for (int i = 0; i < kWorkers; ++i) Join(dispatcher, workers[i], i);
  for (int i = 0; i < kJobs; ++i) Create(desk);
  {
    const Ticker ticker(absl::Milliseconds(100), [&dispatcher] { dispatcher.Tick(); });
    const auto run_until = [&](absl::Time end) {
      while (absl::Now() < end) {
        bool any = false;
        for (Worker& worker : workers) any = Work(dispatcher, worker) || any;
        if (!any) std::this_thread::yield();
      }
    };
    run_until(absl::Now() + duration / 5);  // The caches and the scheduler's estimates fill.
    const auto [images_before, batches_before] = counter.counts();
    const absl::Time begin = absl::Now();
    run_until(begin + duration);
    const auto [images, batches] = counter.counts();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    const double images_a_batch = static_cast<double>(images - images_before) /
                                  static_cast<double>(std::max<int64_t>(1, batches - batches_before));
    const double rate = static_cast<double>(images - images_before) / seconds;
    std::printf("%-10s %8.0f images/s %7.0f batches/s durable, of %.1f images each\n", name.c_str(), rate,
                rate / images_a_batch, images_a_batch);
  }
  dispatcher.Shutdown();
  queue.Stop();
}

int Run(absl::Duration duration, const std::string& folder) {
  std::printf("%d workers in this process, batches of up to %d images of %zu bytes, %u cores\n", kWorkers, kBatchImages,
              kPictureBytes, std::thread::hardware_concurrency());
  {
    auto store = SqliteJobStore::Open({.path = folder + "/jobs.sqlite"});
    if (!store.ok()) Fail(store.status());
    Measure("SQLite", **store, folder, duration);
  }
  const PostgresServer server(/*durable=*/true);
  auto store = PostgresJobStore::Open({.conninfo = server.conninfo(), .coordinator = "benchmark", .incarnation = "1"});
  if (!store.ok()) Fail(store.status());
  Measure("PostgreSQL", **store, folder, duration);
  return 0;
}

}  // namespace
}  // namespace turbofleet

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5.0;
  const std::string folder =
      std::string(argc > 2 ? argv[2] : std::filesystem::temp_directory_path().c_str()) + "/control_plane_benchmark";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const int status = turbofleet::Run(absl::Seconds(seconds), folder);
  std::filesystem::remove_all(folder);
  return status;
}
