#include "client/cli/runner.h"

#include <algorithm>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/recipe.h"
#include "common/sha256.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

// Errors that say something of this request, and not of the connection, the cluster or the caller's patience.
bool IsRefusal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string RequestFingerprint(const Call& call, size_t prompt, uint64_t seed) {
  const client::GenerateRequest& request = call.request;
  nlohmann::ordered_json fields = {{"prompt", request.prompts[prompt]}, {"seed", seed}};
  const auto add = [&fields](const char* key, const auto& value) {
    if (value.has_value()) fields[key] = *value;
  };
  if (!call.sources[prompt].id.empty()) fields["id"] = call.sources[prompt].id;
  fields["negative_prompt"] = request.negative_prompt;
  add("width", request.width);
  add("height", request.height);
  add("steps", request.steps);
  add("guidance_scale", request.guidance_scale);
  fields["init_image"] = call.init_image_sha256;
  add("strength", request.strength);
  if (request.format.has_value()) fields["format"] = FormatName(*request.format);
  add("quality", request.quality);
  add("embed_metadata", request.embed_metadata);
  if (request.vae.has_value()) fields["vae"] = *request.vae == client::Vae::kTiny ? "tiny" : "full";
  fields["model"] = request.model;
  const std::string text = fields.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return Sha256Hex(text.data(), text.size()).substr(0, 16);
}

Runner::Runner(Client* client, OutputFolder* folder, Progress* progress, const Clock* clock, const RunOptions& options)
    : client_(client),
      folder_(folder),
      progress_(progress),
      clock_(clock),
      options_(options),
      writer_(folder, progress, options.json) {}

absl::Status Runner::Run(std::vector<Call> calls, std::stop_token stop) {
  if (options_.timeout.has_value()) deadline_ = clock_->Now() + *options_.timeout;
  // Ends all calls when the caller says so, and when one of them meets an error that the others would meet too.
  std::stop_source all;
  const std::stop_callback forward(stop, [&all] { all.request_stop(); });
  absl::Mutex mu;
  absl::Status first_error;
  size_t next = 0;
  const auto work = [&] {
    while (true) {
      size_t mine = 0;
      {
        absl::MutexLock lock(&mu);
        if (next == calls.size() || all.stop_requested()) return;
        mine = next++;
      }
      const absl::Status status = RunCall(std::move(calls[mine]), &all);
      if (status.ok()) continue;
      absl::MutexLock lock(&mu);
      if (first_error.ok()) first_error = status;
      all.request_stop();
    }
  };
  const size_t threads = std::min(calls.size(), static_cast<size_t>(options_.calls_max));
  std::vector<std::thread> pool;
  for (size_t i = 0; i < threads; ++i) pool.emplace_back(work);
  for (std::thread& thread : pool) thread.join();
  if (first_error.ok() && stop.stop_requested() && next < calls.size()) {
    return absl::CancelledError("cancelled by the caller");
  }
  return first_error;
}

absl::Status Runner::RunCall(Call call, std::stop_source* stop) {
  while (!call.request.prompts.empty()) {
    absl::Status broken;
    client::GenerateOptions options;
    // A disk that is full ends this call at once, and through its error all others.
    std::stop_source own;
    const std::stop_callback forward(stop->get_token(), [&own] { own.request_stop(); });
    options.stop = own.get_token();
    if (deadline_ != absl::InfiniteFuture()) {
      options.timeout = std::max(deadline_ - clock_->Now(), absl::ZeroDuration());
    }
    options.on_retry = [this](const absl::Status& error, absl::Duration delay) {
      progress_->Note(absl::StrCat("Trying again in ", absl::FormatDuration(absl::Ceil(delay, absl::Milliseconds(100))),
                                   ": ", std::string(error.message())));
    };
    const absl::Status status = client_->GenerateImages(call.request, options, [&](client::GenerateEvent event) {
      if (!broken.ok()) return;
      broken = OnEvent(&call, std::move(event));
      if (!broken.ok()) own.request_stop();
    });
    TURBOFLEET_RETURN_IF_ERROR(broken);
    if (status.ok()) return status;
    if (!options_.refusals_belong_to_rows || !IsRefusal(status)) return status;
    TURBOFLEET_ASSIGN_OR_RETURN(const bool go_on, DropRefused(status, &call));
    if (!go_on) return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Runner::DropRefused(const absl::Status& status, Call* call) {
  std::set<size_t> refused;
  for (const std::string& field : client::BadFieldsOf(status)) {
    for (size_t i = 0; i < call->sources.size(); ++i) {
      if (field == absl::StrCat("prompts[", i, "]")) refused.insert(i);
    }
  }
  const bool all = refused.empty();
  for (size_t i = call->sources.size(); i-- > 0;) {
    if (!all && refused.count(i) == 0) continue;
    TURBOFLEET_RETURN_IF_ERROR(FailPrompt(*call, i, status));
    call->request.prompts.erase(call->request.prompts.begin() + static_cast<std::ptrdiff_t>(i));
    call->sources.erase(call->sources.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return !all;
}

absl::Status Runner::FailPrompt(const Call& call, size_t prompt, const absl::Status& status) {
  const Source& source = call.sources[prompt];
  TURBOFLEET_RETURN_IF_ERROR(AddRowError(source.row, source.id, status));
  for (size_t i = 0; i < source.indexes.size(); ++i) progress_->Done(/*failed=*/true);
  return absl::OkStatus();
}

absl::Status Runner::AddRowError(int64_t row, const std::string& id, const absl::Status& status) {
  nlohmann::ordered_json json = {{"row", row}};
  if (!id.empty()) json["id"] = id;
  json.update(ErrorJson(status));
  return writer_.AddFailure(json);
}

absl::Status Runner::OnEvent(Call* call, client::GenerateEvent event) {
  if (auto* image = std::get_if<client::Image>(&event)) return OnImage(*call, std::move(*image));
  if (const auto* failure = std::get_if<client::ImageFailure>(&event)) return OnFailure(*call, *failure);
  call->accepted = std::get<client::Accepted>(std::move(event));
  return absl::OkStatus();
}

absl::Status Runner::OnImage(const Call& call, client::Image image) {
  const auto prompt = static_cast<size_t>(image.prompt_index);
  const Source& source = call.sources[prompt];
  ManifestEntry entry = EntryOf(call.request, call.accepted, image);
  entry.index = source.indexes[static_cast<size_t>(image.index) % source.indexes.size()];
  entry.prompt = call.request.prompts[prompt];
  entry.id = source.id;
  if (!call.init_image_path.empty()) {
    entry.init_image = folder_->RelativePath(call.init_image_path);
    entry.init_image_sha256 = call.init_image_sha256;
  }
  entry.request = RequestFingerprint(call, prompt, image.seed);
  return writer_.AddImage(std::move(entry), image.format, image.content);
}

absl::Status Runner::OnFailure(const Call& call, const client::ImageFailure& failure) {
  const auto prompt = static_cast<size_t>(failure.prompt_index);
  const Source& source = call.sources[prompt];
  const int64_t index = source.indexes[static_cast<size_t>(failure.index) % source.indexes.size()];
  nlohmann::ordered_json json = {{"index", index}};
  if (source.row > 0) json["row"] = source.row;
  if (!source.id.empty()) json["id"] = source.id;
  json["prompt"] = call.request.prompts[prompt];
  json["seed"] = failure.seed;
  json.update(ErrorJson(failure.status));
  json["attempts"] = failure.attempts;
  TURBOFLEET_RETURN_IF_ERROR(writer_.AddFailure(json));
  progress_->Done(/*failed=*/true);
  return absl::OkStatus();
}

}  // namespace turbofleet::cli
