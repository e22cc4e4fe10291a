// `workers`, `status` and `version`: looking without touching.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "common/flags.h"
#include "common/version.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

using Json = nlohmann::ordered_json;

// "sha256:" and the first digits: enough to tell models apart.
std::string ShortDigest(const std::string& digest) { return digest.substr(0, 7 + 12); }

Json WorkerJson(const client::WorkerState& worker) {
  return {{"name", worker.name},
          {"state", worker.state},
          {"version", worker.version},
          {"device", worker.device},
          {"device_name", worker.device_name},
          {"precision", worker.precision},
          {"model_name", worker.model_name},
          {"model_digest", worker.model_digest},
          {"batch_images_max", worker.batch_images_max},
          {"size_max", worker.size_max},
          {"has_tiny_vae", worker.has_tiny_vae},
          {"connect_time", TimeText(worker.connect_time)},
          {"images_leased", worker.images_leased},
          {"images_completed", worker.images_completed},
          {"images_failed", worker.images_failed},
          {"images_per_second", worker.images_per_second}};
}

int ShowWorkers(const Globals& globals, bool json, std::stop_token stop) {
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("workers", client.status());
  const absl::StatusOr<std::vector<client::WorkerState>> workers = client->ListWorkers({.stop = stop});
  if (!workers.ok()) return Fail(globals, workers.status());
  if (json) {
    for (const client::WorkerState& worker : *workers) std::printf("%s\n", Dump(WorkerJson(worker)).c_str());
    return kExitOk;
  }
  if (workers->empty()) {
    std::fprintf(stderr, "No worker is connected. Start one: turbofleet-worker --coordinator %s --model DIR\n",
                 globals.coordinator.c_str());
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows = {
      {"WORKER", "STATE", "DEVICE", "PRECISION", "MODEL", "HAS", "DONE", "FAILED", "RATE"}};
  for (const client::WorkerState& worker : *workers) {
    rows.push_back({worker.name.rfind("workers/", 0) == 0 ? worker.name.substr(8) : worker.name, worker.state,
                    absl::StrCat(worker.device, " ", worker.device_name), worker.precision, worker.model_name,
                    absl::StrCat(worker.images_leased), absl::StrCat(worker.images_completed),
                    absl::StrCat(worker.images_failed), absl::StrFormat("%.2f/s", worker.images_per_second)});
  }
  PrintTable(rows);
  return kExitOk;
}

Json ClusterJson(const client::ClusterState& cluster) {
  Json json = {{"version", cluster.version},
               {"start_time", TimeText(cluster.start_time)},
               {"draining", cluster.draining},
               {"workers_ready", cluster.workers_ready},
               {"workers_draining", cluster.workers_draining},
               {"jobs_running", cluster.jobs_running},
               {"images_queued", cluster.images_queued},
               {"images_leased", cluster.images_leased},
               {"images_completed", cluster.images_completed},
               {"images_failed", cluster.images_failed},
               {"images_queued_max", cluster.images_queued_max}};
  if (cluster.oldest_queued_age.has_value()) {
    json["oldest_queued_age_seconds"] = absl::ToDoubleSeconds(*cluster.oldest_queued_age);
  }
  json["models"] = Json::array();
  for (const client::ModelState& model : cluster.models) {
    json["models"].push_back({{"digest", model.digest},
                              {"name", model.name},
                              {"default_width", model.default_width},
                              {"default_height", model.default_height},
                              {"workers", model.workers}});
  }
  return json;
}

int ShowStatus(const Globals& globals, bool json, std::stop_token stop) {
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("status", client.status());
  const absl::StatusOr<client::ClusterState> cluster = client->GetCluster({.stop = stop});
  if (!cluster.ok()) return Fail(globals, cluster.status());
  if (json) {
    std::printf("%s\n", Dump(ClusterJson(*cluster)).c_str());
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows = {
      {"Coordinator",
       absl::StrCat(globals.coordinator, ", version ", cluster->version, cluster->draining ? ", shutting down" : "")},
      {"Started", TimeText(cluster->start_time)},
      {"Workers", absl::StrCat(cluster->workers_ready, " ready, ", cluster->workers_draining, " draining")},
      {"Jobs", absl::StrCat(cluster->jobs_running, " running")},
      {"Images", absl::StrCat(cluster->images_queued, " waiting (at most ", cluster->images_queued_max, "), ",
                              cluster->images_leased, " on workers, ", cluster->images_completed, " done, ",
                              cluster->images_failed, " failed")}};
  if (cluster->oldest_queued_age.has_value()) {
    rows.push_back({"Longest wait", MinutesText(*cluster->oldest_queued_age)});
  }
  for (const client::ModelState& model : cluster->models) {
    rows.push_back({"Model", absl::StrCat(model.name, ", ", model.default_width, "x", model.default_height, ", on ",
                                          model.workers, " workers, ", ShortDigest(model.digest))});
  }
  PrintTable(rows);
  return kExitOk;
}

}  // namespace

void AddWorkersCommand(CLI::App* app, const Globals* globals, Commands* commands) {
  CLI::App* command = app->add_subcommand("workers", "List the workers of the cluster");
  command->footer(
      "\nExamples:\n  turbofleet workers\n  turbofleet workers --json | jq -r 'select(.state == \"idle\") | .name'");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "Print one JSON object per worker");
  (*commands)[command] = [globals, json](std::stop_token stop) { return ShowWorkers(*globals, *json, stop); };
}

void AddStatusCommand(CLI::App* app, const Globals* globals, Commands* commands) {
  CLI::App* command = app->add_subcommand("status", "Show how the cluster is");
  command->footer("\nExamples:\n  turbofleet status\n  turbofleet status --json | jq .images_queued");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "Print one JSON object");
  (*commands)[command] = [globals, json](std::stop_token stop) { return ShowStatus(*globals, *json, stop); };
}

void AddVersionCommand(CLI::App* app, Commands* commands) {
  CLI::App* command = app->add_subcommand("version", "Print the version");
  (*commands)[command] = [](std::stop_token) {
    std::printf("turbofleet %s\n", TURBOFLEET_VERSION);
    return kExitOk;
  };
}

}  // namespace turbofleet::cli
