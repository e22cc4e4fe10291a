#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "common/http_server.h"
#include "common/version.h"
#include "prometheus/metric_family.h"

namespace turbofleet {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily OneValue(const char* name, const char* help, MetricType type, double value) {
  ClientMetric metric;
  if (type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return MetricFamily{name, help, type, {std::move(metric)}};
}

// The numbers of /proc/self/stat after the program's name, which may itself hold spaces and brackets. Index 0 is field
// 3 of proc(5).
std::vector<double> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::ostringstream content;
  content << file.rdbuf();
  const std::string text = content.str();
  std::istringstream rest(text.substr(std::min(text.rfind(')') + 1, text.size())));
  std::vector<double> fields(1);
  std::string state;
  rest >> state;
  double value = 0;
  while (rest >> value) fields.push_back(value);
  return fields;
}

double BootTimeSeconds() {
  std::ifstream file("/proc/stat");
  std::string word;
  while (file >> word) {
    if (word == "btime") {
      double seconds = 0;
      file >> seconds;
      return seconds;
    }
  }
  return 0;
}

double OpenDescriptors() {
  double count = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end; it.increment(error)) {
    ++count;
  }
  return count;
}

class ProcessCollector : public prometheus::Collectable {
 public:
  explicit ProcessCollector(std::string program) : program_(std::move(program)) {}

  std::vector<MetricFamily> Collect() const override {
    constexpr size_t kUserTime = 11, kSystemTime = 12, kThreads = 17, kStartTime = 19, kVirtualBytes = 20,
                     kResidentPages = 21;  // Fields 14, 15, 20, 22, 23 and 24 of proc(5).
    ClientMetric build;
    build.label = {{"program", program_}, {"version", TURBOFLEET_VERSION}};
    build.gauge.value = 1;
    std::vector<MetricFamily> families;
    families.push_back(MetricFamily{"turbofleet_build_info",
                                    "The program and its release; the value is always 1.",
                                    MetricType::Gauge,
                                    {std::move(build)}});
    const std::vector<double> stat = StatFields();
    if (stat.size() <= kResidentPages) return families;
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    const double page = static_cast<double>(sysconf(_SC_PAGESIZE));
    families.push_back(OneValue("process_cpu_seconds_total", "User and system processor time spent, in seconds.",
                                MetricType::Counter, (stat[kUserTime] + stat[kSystemTime]) / ticks));
    families.push_back(OneValue("process_start_time_seconds", "When the process started, in seconds since 1970.",
                                MetricType::Gauge, boot_time_seconds_ + stat[kStartTime] / ticks));
    families.push_back(OneValue("process_virtual_memory_bytes", "Size of the virtual memory in bytes.",
                                MetricType::Gauge, stat[kVirtualBytes]));
    families.push_back(OneValue("process_resident_memory_bytes", "Size of the resident memory in bytes.",
                                MetricType::Gauge, stat[kResidentPages] * page));
    families.push_back(OneValue("process_threads", "Number of threads.", MetricType::Gauge, stat[kThreads]));
    families.push_back(
        OneValue("process_open_fds", "Number of open file descriptors.", MetricType::Gauge, OpenDescriptors()));
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
      families.push_back(OneValue("process_max_fds", "Most file descriptors the process may open.", MetricType::Gauge,
                                  static_cast<double>(limit.rlim_cur)));
    }
    return families;
  }

 private:
  const std::string program_;
  const double boot_time_seconds_ = BootTimeSeconds();
};

}  // namespace

std::shared_ptr<prometheus::Collectable> MakeProcessCollector(const std::string& program) {
  return std::make_shared<ProcessCollector>(program);
}

}  // namespace turbofleet
