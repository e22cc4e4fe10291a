#include "client/cli/job_watcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {

JobWatcher::JobWatcher(Client* client, JobFolder* folder, Progress* progress, const JobWatcherOptions& options)
    : client_(client),
      folder_(folder),
      progress_(progress),
      options_(options),
      earlier_(folder->images()),
      writer_(folder->output(), progress, options.json) {
  const JobRecord& record = folder->record();
  request_.negative_prompt = record.negative_prompt;
  request_.guidance_scale = record.guidance_scale;
  request_.quality = record.quality;
  request_.vae = record.vae == "tiny" ? client::Vae::kTiny : client::Vae::kFull;
}

absl::Status JobWatcher::Run(std::stop_token stop) {
  const JobPosition& position = folder_->position();
  if (!position.resume_token.empty() && position.ordered != options_.ordered) {
    return absl::FailedPreconditionError(absl::StrCat(folder_->output()->path(), " was filled with",
                                                      position.ordered ? "" : "out",
                                                      " --ordered; go on like that, or choose another folder"));
  }
  absl::Status broken;
  // A disk that is full ends the watch at once.
  std::stop_source own;
  const std::stop_callback forward(stop, [&own] { own.request_stop(); });
  client::WatchOptions options;
  options.timeout = options_.timeout;
  options.stop = own.get_token();
  options.on_retry = [this](const absl::Status& error, absl::Duration delay) {
    progress_->Note(absl::StrCat("Trying again in ", absl::FormatDuration(absl::Ceil(delay, absl::Milliseconds(100))),
                                 ": ", std::string(error.message())));
  };
  options.release_delivered = options_.release;
  options.before_release = [this](const std::string&) { return folder_->output()->Sync(); };
  const absl::Status status = client_->WatchJob(
      {.name = folder_->record().job, .resume_token = position.resume_token, .ordered = options_.ordered}, options,
      [&](client::WatchEvent event) {
        broken = OnEvent(std::move(event));
        if (!broken.ok()) own.request_stop();
      });
  return broken.ok() ? status : broken;
}

absl::Status JobWatcher::OnEvent(client::WatchEvent event) {
  if (auto* job = std::get_if<client::Job>(&event.event)) return OnJob(std::move(*job));
  if (const auto* image = std::get_if<client::Image>(&event.event)) {
    TURBOFLEET_RETURN_IF_ERROR(OnImage(*image));
  } else {
    TURBOFLEET_RETURN_IF_ERROR(OnFailure(std::get<client::ImageFailure>(event.event)));
  }
  return folder_->SetPosition({.ordered = options_.ordered, .resume_token = std::move(event.resume_token)});
}

absl::Status JobWatcher::OnJob(client::Job job) {
  const std::vector<std::string>& prompts = folder_->record().prompts;
  if (!prompts.empty() && static_cast<int64_t>(prompts.size()) != job.prompt_count) {
    return absl::FailedPreconditionError(absl::StrCat(folder_->output()->path(), " knows ", prompts.size(),
                                                      " prompts of ", job.name, ", which has ", job.prompt_count));
  }
  if (!job_.has_value()) {
    progress_->Expect(std::max<int64_t>(job.image_count - folder_->images() - folder_->failures(), 0));
  }
  if (job.waits_for_release && !options_.release && !std::exchange(told_of_waiting_, true)) {
    progress_->Note(
        absl::StrCat("The job waits: its pictures fill the room that it has on the coordinator. Run this "
                     "again with --release to give up there what is in ",
                     folder_->output()->path()));
  }
  job_ = std::move(job);
  return absl::OkStatus();
}

absl::Status JobWatcher::OnImage(const client::Image& image) {
  if (const std::string* digest = folder_->DigestAt(image.index); digest != nullptr) {
    if (*digest == image.pixel_sha256) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(folder_->output()->path(), " has another picture ", image.index, " than the job"));
  }
  const JobRecord& record = folder_->record();
  ManifestEntry entry = EntryOf(request_, job_->accepted, image);
  entry.index = image.index;
  if (record.prompts.empty()) {
    entry.prompt_index = image.prompt_index;
  } else {
    entry.prompt = record.prompts[static_cast<size_t>(image.prompt_index)];
    entry.init_image = record.init_image;
    entry.init_image_sha256 = record.init_image_sha256;
  }
  return writer_.AddImage(std::move(entry), image.format, image.content);
}

absl::Status JobWatcher::OnFailure(const client::ImageFailure& failure) {
  if (folder_->HasFailure(failure.index)) return absl::OkStatus();
  const JobRecord& record = folder_->record();
  nlohmann::ordered_json json = {{"index", failure.index}};
  if (record.prompts.empty()) {
    json["prompt_index"] = failure.prompt_index;
  } else {
    json["prompt"] = record.prompts[static_cast<size_t>(failure.prompt_index)];
  }
  json["seed"] = failure.seed;
  json.update(ErrorJson(failure.status));
  json["attempts"] = failure.attempts;
  TURBOFLEET_RETURN_IF_ERROR(writer_.AddFailure(json));
  progress_->Done(/*failed=*/true);
  return absl::OkStatus();
}

}  // namespace turbofleet::cli
