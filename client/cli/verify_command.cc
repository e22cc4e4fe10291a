// `verify`: makes the pictures of a manifest again and compares.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/command.h"
#include "client/cli/manifest.h"
#include "client/cli/picture_file.h"
#include "client/cli/progress.h"
#include "client/cli/recipe.h"
#include "client/cli/verify_plan.h"
#include "common/clock.h"
#include "common/flags.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

constexpr char kExamples[] = R"(
Examples:
  turbofleet verify out/manifest.jsonl
  turbofleet verify out/manifest.jsonl --json | jq 'select(.remade != "same")'

Each picture is asked for again with the model, prompt, seed and options of its line, and must come out with the same
SHA-256 of its pixels. PNG and raw files on disk must also still hold these pixels. JPEG and WebP files are only
looked for: they do not keep pixels exactly.

Exit codes: 0 all the same, 3 some are not, and those of other commands.)";

constexpr size_t kManifestBytesMax = size_t{1} << 30;
constexpr size_t kCallsMax = 8;

// What was found of one entry.
struct Finding {
  std::string file = "unchecked";   // "same", "different", "missing", "unchecked".
  std::string remade = "not_made";  // "same", "different", "not_made".
  std::string why;                  // Of "not_made".
  bool Good() const { return remade == "same" && (file == "same" || file == "unchecked"); }
};

std::string CheckFile(const std::string& folder, const ManifestEntry& entry) {
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::path(folder) / entry.path, error)) return "missing";
  if (entry.format != "png" && entry.format != "raw") return "unchecked";
  const absl::StatusOr<RgbImage> picture = ReadPicture(folder, entry);
  return picture.ok() && PixelDigest(*picture) == entry.sha256 ? "same" : "different";
}

// Makes pictures again, several calls at once. Used once.
class Verification {
 public:
  Verification(Client* client, const std::vector<ManifestEntry>& entries, Progress* progress)
      : client_(client), entries_(entries), progress_(progress), findings_(entries.size()) {}

  // OK: every call was answered, with what result findings() tells. Otherwise the first error.
  absl::Status Run(const VerifyPlan& plan, std::stop_token stop) {
    for (const VerifyProblem& problem : plan.problems) Note({problem.entry}, "not_made", problem.what);
    std::stop_source all;
    const std::stop_callback forward(stop, [&all] { all.request_stop(); });
    const auto work = [&] {
      while (const VerifyCall* call = Next(plan)) {
        const absl::Status status =
            client_->GenerateImages(call->request, {.timeout = {}, .stop = all.get_token(), .on_retry = {}},
                                    [&](const client::GenerateEvent& event) { OnEvent(*call, event); });
        if (status.ok()) continue;
        absl::MutexLock lock(&mu_);
        if (first_error_.ok()) first_error_ = status;
        all.request_stop();
        return;
      }
    };
    std::vector<std::thread> threads;
    for (size_t i = 0; i < std::min(kCallsMax, plan.calls.size()); ++i) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    absl::MutexLock lock(&mu_);
    return first_error_;
  }

  // After Run().
  std::vector<Finding> findings() {
    absl::MutexLock lock(&mu_);
    return findings_;
  }

 private:
  const VerifyCall* Next(const VerifyPlan& plan) {
    absl::MutexLock lock(&mu_);
    return first_error_.ok() && next_ < plan.calls.size() ? &plan.calls[next_++] : nullptr;
  }

  void OnEvent(const VerifyCall& call, const client::GenerateEvent& event) {
    if (const auto* image = std::get_if<client::Image>(&event)) {
      for (const size_t i : call.entries[static_cast<size_t>(image->index)]) {
        Note({i}, image->pixel_sha256 == entries_[i].sha256 ? "same" : "different", "");
      }
    } else if (const auto* failure = std::get_if<client::ImageFailure>(&event)) {
      Note(call.entries[static_cast<size_t>(failure->index)], "not_made", std::string(failure->status.message()));
    }
  }

  void Note(const std::vector<size_t>& entries, const std::string& remade, const std::string& why) {
    for (size_t i = 0; i < entries.size(); ++i) progress_->Done(/*failed=*/remade != "same");
    absl::MutexLock lock(&mu_);
    for (const size_t i : entries) {
      findings_[i].remade = remade;
      findings_[i].why = why;
    }
  }

  Client* const client_;
  const std::vector<ManifestEntry>& entries_;
  Progress* const progress_;
  absl::Mutex mu_;
  std::vector<Finding> findings_ ABSL_GUARDED_BY(mu_);
  absl::Status first_error_ ABSL_GUARDED_BY(mu_);
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;
};

void PrintJson(const ManifestEntry& entry, const Finding& finding) {
  nlohmann::ordered_json json = {
      {"index", entry.index}, {"path", entry.path}, {"file", finding.file}, {"remade", finding.remade}};
  if (!finding.why.empty()) json["why"] = finding.why;
  std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void PrintDifference(const ManifestEntry& entry, const Finding& finding) {
  std::string what;
  if (finding.remade == "different") what = "comes out with other pixels than the manifest says";
  if (finding.remade == "not_made") what = absl::StrCat("was not made again: ", finding.why);
  if (finding.file == "different") absl::StrAppend(&what, what.empty() ? "" : "; ", "its file holds other pixels");
  if (finding.file == "missing") absl::StrAppend(&what, what.empty() ? "" : "; ", "its file is missing");
  std::fprintf(stderr, "%s: %s\n", entry.path.c_str(), what.c_str());
}

int Verify(const Globals& globals, const std::string& path, bool json, std::stop_token stop) {
  const absl::StatusOr<std::string> text = ReadFile(path, kManifestBytesMax);
  if (!text.ok()) return FailUsage("verify", text.status());
  const absl::StatusOr<Manifest> manifest = ParseManifest(*text);
  if (!manifest.ok()) return FailUsage("verify", manifest.status());
  const std::vector<ManifestEntry>& entries = manifest->entries;
  if (entries.empty()) return FailUsage("verify", absl::NotFoundError(absl::StrCat(path, " names no picture")));
  absl::StatusOr<Client> client = Connect(globals);
  if (!client.ok()) return FailUsage("verify", client.status());

  const std::string folder = std::filesystem::path(path).parent_path().string();
  const SteadyClock clock;
  Progress progress(ChooseProgressStyle(globals.quiet), &clock);
  progress.Expect(static_cast<int64_t>(entries.size()));
  Verification verification(&*client, entries, &progress);
  const absl::Status status = verification.Run(PlanVerification(entries, folder), stop);
  progress.Finish();
  if (!status.ok()) return Fail(globals, status);

  std::vector<Finding> findings = verification.findings();
  int64_t good = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    findings[i].file = CheckFile(folder, entries[i]);
    good += findings[i].Good() ? 1 : 0;
    if (json) PrintJson(entries[i], findings[i]);
    if (!json && !findings[i].Good()) PrintDifference(entries[i], findings[i]);
  }
  const auto total = static_cast<int64_t>(entries.size());
  if (!globals.quiet) {
    std::fprintf(stderr, "%s of %s pictures are the same, made again\n", absl::StrCat(good).c_str(),
                 absl::StrCat(total).c_str());
  }
  return good == total ? kExitOk : kExitSomeFailed;
}

}  // namespace

void AddVerifyCommand(CLI::App* app, const Globals* globals, Commands* commands) {
  CLI::App* command = app->add_subcommand("verify", "Make the pictures of a manifest again and compare them");
  command->footer(kExamples);
  const auto path = std::make_shared<std::string>();
  const auto json = std::make_shared<bool>(false);
  command->add_option("MANIFEST", *path, "The manifest.jsonl of a folder of pictures")->required();
  command->add_flag("--json", *json, "Print one JSON object per picture");
  (*commands)[command] = [globals, path, json](std::stop_token stop) { return Verify(*globals, *path, *json, stop); };
}

}  // namespace turbofleet::cli
