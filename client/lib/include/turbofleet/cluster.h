// The state of the cluster, as plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace turbofleet::client {

struct ModelState {
  std::string digest;
  std::string name;
  int32_t default_width = 0;
  int32_t default_height = 0;
  int32_t workers = 0;
};

struct ClusterState {
  std::string version;  // The coordinator's.
  absl::Time start_time;
  bool draining = false;
  int32_t workers_ready = 0;
  int32_t workers_draining = 0;
  int32_t jobs_running = 0;
  int64_t images_queued = 0;
  int64_t images_leased = 0;
  int64_t images_completed = 0;  // Since the coordinator started, as is the next.
  int64_t images_failed = 0;
  int64_t images_queued_max = 0;
  std::optional<absl::Duration> oldest_queued_age;
  std::vector<ModelState> models;
};

struct WorkerState {
  std::string name;   // `workers/{worker}`.
  std::string state;  // "idle", "busy", "draining"; "unknown" for one that this library does not know.
  std::string version;
  std::string device;
  std::string device_name;
  std::string precision;
  std::string model_name;
  std::string model_digest;
  int32_t batch_images_max = 0;
  int32_t size_max = 0;
  bool has_tiny_vae = false;
  absl::Time connect_time;
  int32_t images_leased = 0;
  int64_t images_completed = 0;
  int64_t images_failed = 0;
  double images_per_second = 0;
};

}  // namespace turbofleet::client
