// The HTTP side of a program: /metrics for Prometheus, /healthz, /readyz and /version.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/registry.h"

namespace turbofleet {

// Serves until destroyed, on threads of its own. Thread-safe.
class HttpServer {
 public:
  struct Options {
    std::string listen;           // "HOST:PORT"; port 0 takes a free one.
    std::function<bool()> ready;  // Decides /readyz: 200 or 503. Quick and thread-safe.
    std::string program;          // For /version.
    int threads = 4;
  };

  // UNAVAILABLE: the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           std::shared_ptr<prometheus::Registry> registry);
  virtual ~HttpServer() = default;

  // The port that is bound.
  virtual int port() const = 0;
};

// Adds what every program exports: turbofleet_build_info and the conventional process_* metrics, read from /proc at
// each scrape. The returned object must outlive the registry's use.
std::shared_ptr<prometheus::Collectable> MakeProcessCollector(const std::string& program);

}  // namespace turbofleet
