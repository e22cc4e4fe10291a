// Commits batches of images in groups, as the coordinator does, and prints how many a second each store makes durable,
// with what the disk alone allows beside it. Run: store_benchmark [seconds] [folder]
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "coordinator/store/in_memory_job_store.h"
#include "coordinator/store/postgres_job_store.h"
#include "coordinator/store/sqlite_job_store.h"
#include "tests/coordinator/store/postgres_server.h"
#include "tests/coordinator/store/store_samples.h"

namespace turbofleet {
namespace {

constexpr int kBatches = 50;  // In a group.
constexpr int kBatchImages = 10;

struct Figures {
  int64_t groups = 0;
  double seconds = 0.0;
  double cpu_seconds = 0.0;  // Of this process.
  std::vector<double> group_ms;
  double delete_ms = 0.0;  // The job with all of its results, at the end.
};

void Print(const std::string& name, Figures figures) {
  std::sort(figures.group_ms.begin(), figures.group_ms.end());
  const auto at = [&figures](double part) {
    return figures.group_ms[static_cast<size_t>(part * static_cast<double>(figures.group_ms.size() - 1))];
  };
  const double groups = static_cast<double>(figures.groups) / figures.seconds;
  std::printf(
      "%-10s %7.0f images/s %6.0f batches/s %5.0f groups/s; a group: p50 %5.2f ms, p99 %5.2f ms, CPU %5.2f ms\n",
      name.c_str(), groups * kBatches * kBatchImages, groups * kBatches, groups, at(0.5), at(0.99),
      1e3 * figures.cpu_seconds / static_cast<double>(figures.groups));
  std::printf("%-10s deletes the job with %ld images in %.0f ms\n", "",
              static_cast<long>(figures.groups * kBatches * kBatchImages), figures.delete_ms);
}

// One job whose batches come from as many shards as a fleet would be at.
class Work {
 public:
  explicit Work(JobStore& store) : store_(store) {
    SubmitSample(store_, {.number = 1, .seeds_per_prompt = 100'000}, 1'000);
  }

  // The next group: a batch of each of kBatches shards.
  std::vector<ShardResults> Next() {
    if (open_.empty()) {
      const std::vector<ClaimedShard> claimed = store_.Claim(SampleId(1), kBatches).value();
      for (const ClaimedShard& shard : claimed) open_.emplace_back(shard.number, 0);
    }
    std::vector<ShardResults> group;
    for (auto& [shard, next] : open_) {
      ShardResults results = {.job = SampleId(1), .shard = shard};
      for (int i = 0; i < kBatchImages && next < kShardImages; ++i, ++next) {
        results.results.push_back(MakePicture(shard * kShardImages + next, absl::StrCat("pack-", shard / kBatches)));
      }
      group.push_back(std::move(results));
    }
    if (open_.front().second == kShardImages) open_.clear();
    return group;
  }

 private:
  JobStore& store_;
  std::vector<std::pair<int32_t, int32_t>> open_;  // Shard, and its next image.
};

Figures Measure(JobStore& store, absl::Duration duration) {
  Work work(store);
  Figures figures;
  const absl::Time start = absl::Now();
  absl::Duration spent;  // In the store.
  clock_t cpu = 0;
  while (absl::Now() - start < duration) {
    const std::vector<ShardResults> group = work.Next();
    const absl::Time before = absl::Now();
    const clock_t cpu_before = std::clock();
    const auto receipts = store.CommitAll(group, absl::Now());
    const absl::Duration took = absl::Now() - before;
    cpu += std::clock() - cpu_before;
    if (!receipts.ok() || !receipts->front().ok()) {
      std::fprintf(stderr, "%s\n", receipts.status().ToString().c_str());
      std::exit(1);
    }
    spent += took;
    figures.group_ms.push_back(absl::ToDoubleMilliseconds(took));
    ++figures.groups;
  }
  figures.seconds = absl::ToDoubleSeconds(spent);
  figures.cpu_seconds = static_cast<double>(cpu) / CLOCKS_PER_SEC;
  const absl::Time before = absl::Now();
  if (!store.End(SampleId(1), JobState::kCancelled, absl::Now()).ok() || !store.Delete(SampleId(1)).ok()) std::exit(1);
  figures.delete_ms = absl::ToDoubleMilliseconds(absl::Now() - before);
  return figures;
}

// What any store that waits for the disk could do at most: one write and fdatasync after the other.
void PrintDisk(const std::string& folder) {
  const int file = open((folder + "/sync").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  const std::string block(4'096, 'x');
  const absl::Time start = absl::Now();
  int count = 0;
  for (; absl::Now() - start < absl::Seconds(1); ++count) {
    if (write(file, block.data(), block.size()) < 0 || fdatasync(file) != 0) std::exit(1);
  }
  close(file);
  std::printf("disk: %d writes with fdatasync a second\n", count);
}

void PrintMachine() {
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line) && line.rfind("model name", 0) != 0) {
  }
  utsname system = {};
  uname(&system);
  std::printf("machine: %s, %u cores, %s %s\n", line.substr(line.find(':') + 2).c_str(),
              std::thread::hardware_concurrency(), system.sysname, system.release);
  std::printf("groups of %d batches of %d images, one after the other; time in the store\n", kBatches, kBatchImages);
}

int Run(absl::Duration duration, const std::string& folder) {
  PrintMachine();
  PrintDisk(folder);
  {
    const SteadyClock clock;
    InMemoryJobStore store(std::make_shared<InMemoryDatabase>(clock, absl::Seconds(5)), {.incarnation = "1"});
    Print("in memory", Measure(store, duration));
  }
  {
    auto store = SqliteJobStore::Open({.path = folder + "/jobs.sqlite"});
    if (!store.ok()) return 1;
    Print("SQLite", Measure(**store, duration));
  }
  {
    const PostgresServer server(/*durable=*/true);
    auto store =
        PostgresJobStore::Open({.conninfo = server.conninfo(), .coordinator = "benchmark", .incarnation = "1"});
    if (!store.ok()) return 1;
    Print("PostgreSQL", Measure(**store, duration));
  }
  return 0;
}

}  // namespace
}  // namespace turbofleet

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5.0;
  const std::string folder =
      std::string(argc > 2 ? argv[2] : std::filesystem::temp_directory_path().c_str()) + "/store_benchmark";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const int status = turbofleet::Run(absl::Seconds(seconds), folder);
  std::filesystem::remove_all(folder);
  return status;
}
