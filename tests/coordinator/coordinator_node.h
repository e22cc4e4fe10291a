// One life of a coordinator without network and threads, on a database and a disk that others may share and that fail
// as told.
#pragma once

#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/dispatch/dispatcher.h"
#include "coordinator/dispatch/job_desk.h"
#include "coordinator/dispatch/result_reader.h"
#include "coordinator/dispatch/store_queue.h"
#include "coordinator/store/in_memory_job_store.h"
#include "gtest/gtest.h"
#include "tests/coordinator/memory_spool.h"

namespace turbofleet {

class FaultyJobStore : public InMemoryJobStore {
 public:
  using InMemoryJobStore::InMemoryJobStore;

  enum class Fault { kNone, kBefore, kAfter };  // kAfter: what was done is durable, and nobody hears of it.

  absl::Status Transact(absl::FunctionRef<absl::Status()> body) override {
    const Fault fault = next_fault ? next_fault() : Fault::kNone;
    if (fault == Fault::kBefore) return absl::UnavailableError("the database is away");
    const absl::Status status = InMemoryJobStore::Transact([&] {
      const absl::Status done = body();
      return broken ? absl::DataLossError("the database is broken") : done;
    });
    if (status.ok() && fault == Fault::kAfter) return absl::UnavailableError("the connection broke");
    return status;
  }

  std::function<Fault()> next_fault;
  bool broken = false;
};

struct CoordinatorNode {
  struct Options {
    Dispatcher::Options dispatcher{};
    JobDesk::Options desk{};
    std::string name = "coordinator";
    std::string life = "1";
    bool shared = false;
    size_t pack_bytes_max = 1'000;
  };

  CoordinatorNode(const Options& options, const Clock* clock, std::shared_ptr<InMemoryDatabase> database,
                  MemoryDisk* disk, DispatchObserver* observer, Logger* logger, std::function<std::string()> new_name)
      : name(options.name),
        life(options.life),
        store(std::move(database),
              {.shared = options.shared, .coordinator = options.name, .incarnation = options.life}),
        spool(disk, options.life, options.pack_bytes_max),
        queue({}, &store, &spool),
        dispatcher(options.dispatcher, {.clock = clock,
                                        .observer = observer,
                                        .logger = logger,
                                        .new_name = new_name,
                                        .new_seed = [] { return 7u; },
                                        .store = &queue,
                                        .spool = &spool,
                                        .store_shared = options.shared,
                                        .on_fenced = [this] { fenced = true; }}),
        reader(&queue, &spool, [](const std::function<void()>& call) { call(); }),
        desk(options.desk, &dispatcher, &queue, &spool, clock, new_name) {}

  // Takes up what an earlier life left, as the program does.
  void Recover() {
    std::vector<JobRecord> running;
    while (true) {
      auto page = store.ListRunning(running.empty() ? "" : running.back().id, 1'000);
      ASSERT_TRUE(page.ok());
      if (page->empty()) break;
      running.insert(running.end(), page->begin(), page->end());
    }
    for (const std::string& job : spool.Jobs()) {
      if (absl::IsNotFound(store.Find(job).status())) spool.RemoveJob(job);
    }
    dispatcher.LoadJobs(running, store.Usage().value());
  }

  // Runs what waits for the store, and what follows from it.
  void RunStore() {
    for (int i = 0; i < 1'000 && queue.RunOnce(); ++i) {
    }
  }

  const std::string name;
  const std::string life;
  bool fenced = false;
  FaultyJobStore store;
  MemorySpool spool;
  StoreQueue queue;
  Dispatcher dispatcher;
  ResultReader reader;
  JobDesk desk;
};

}  // namespace turbofleet
