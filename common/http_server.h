// The HTTP side of a program: /metrics for Prometheus, /healthz, /readyz and /version.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "prometheus/registry.h"

namespace turbofleet {

// Serves until destroyed, on threads of its own. Thread-safe. It answers GET and
// HEAD only, in plain HTTP, and never shows what a job contains.
class HttpServer {
 public:
  struct Options {
    std::string listen;                // "HOST:PORT"; port 0 takes a free one.
    std::function<bool()> ready = {};  // Decides /readyz: 200 or 503. Quick and thread-safe.
    std::string program = {};          // For /version and turbofleet_build_info.
    int threads = 4;
    // Metrics that are computed at each scrape, beside those of the registry.
    std::vector<std::shared_ptr<prometheus::Collectable>> collectables = {};
  };

  // /metrics has those of `registry`, of Options::collectables, and the process collector's.
  // INVALID_ARGUMENT: `listen` is no HOST:PORT. UNAVAILABLE: the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           std::shared_ptr<prometheus::Registry> registry);
  virtual ~HttpServer() = default;

  // The port that is bound.
  virtual int port() const = 0;
};

// What every program exports: turbofleet_build_info and the conventional process_* metrics, read from /proc at each
// scrape. Each HttpServer serves one already.
std::shared_ptr<prometheus::Collectable> MakeProcessCollector(const std::string& program);

}  // namespace turbofleet
