#include "client/cli/picture_writer.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/cli/recipe.h"
#include "client/cli/table.h"
#include "common/sha256.h"
#include "common/status.h"
#include "common/text.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

constexpr size_t kWarningsMax = 100;
constexpr size_t kPromptQuoteBytesMax = 60;

}  // namespace

ManifestEntry EntryOf(const client::GenerateRequest& request, const client::Accepted& accepted,
                      const client::Image& image) {
  ManifestEntry entry;
  entry.seed = image.seed;
  entry.width = image.width;
  entry.height = image.height;
  entry.steps = accepted.steps;
  entry.strength = accepted.strength;
  entry.sha256 = image.pixel_sha256;
  entry.model_digest = image.model_digest;
  entry.worker = image.worker;
  entry.negative_prompt = request.negative_prompt;
  entry.guidance_scale = request.guidance_scale.value_or(0);
  entry.format = FormatName(image.format);
  entry.quality = request.quality;
  entry.vae = request.vae == client::Vae::kTiny ? "tiny" : "full";
  entry.job = image.job;
  entry.attempt = image.attempt;
  entry.prompt_tokens_cut = image.prompt_tokens_cut;
  return entry;
}

nlohmann::ordered_json ErrorJson(const absl::Status& status) {
  return {{"code", absl::StatusCodeToString(status.code())},
          {"reason", ReasonOf(status)},
          {"message", std::string(status.message())}};
}

absl::Status PictureWriter::AddImage(ManifestEntry entry, client::FileFormat format, const std::string& content) {
  TURBOFLEET_RETURN_IF_ERROR(folder_->AddImage(FileExtension(format), content, &entry));
  if (entry.prompt_tokens_cut > 0) WarnOfCutTokens(entry.prompt, entry.prompt_tokens_cut);
  progress_->Done(/*failed=*/false);
  absl::MutexLock lock(&mu_);
  ++images_;
  if (!json_) return absl::OkStatus();
  nlohmann::ordered_json json = ToJson(entry);
  json["path"] = folder_->FilePath(entry);
  std::printf("%s\n", Dump(json).c_str());
  if (std::fflush(stdout) != 0) return absl::UnknownError("cannot write to standard output");
  return absl::OkStatus();
}

absl::Status PictureWriter::AddFailure(const nlohmann::ordered_json& error) {
  {
    absl::MutexLock lock(&mu_);
    ++failures_;
  }
  return folder_->AddError(error);
}

int64_t PictureWriter::images() const {
  absl::MutexLock lock(&mu_);
  return images_;
}

int64_t PictureWriter::failures() const {
  absl::MutexLock lock(&mu_);
  return failures_;
}

void PictureWriter::WarnOfCutTokens(const std::string& prompt, int32_t tokens) {
  {
    absl::MutexLock lock(&mu_);
    if (prompts_warned_.size() >= kWarningsMax) return;
    if (!prompts_warned_.insert(Sha256Hex(prompt.data(), prompt.size())).second) return;
  }
  progress_->Note(absl::StrCat("Warning: the prompt is too long; its last ", tokens, " token", tokens == 1 ? "" : "s",
                               " had no influence: ", JsonQuote(TruncateUtf8(prompt, kPromptQuoteBytesMax))));
}

}  // namespace turbofleet::cli
