#include "client/cli/recipe.h"

#include <charconv>
#include <fstream>
#include <map>
#include <sstream>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/errors.h"
#include "common/status.h"

namespace turbofleet::cli {
namespace {

constexpr char kPictureGroup[] = "Picture";
constexpr char kFileGroup[] = "Files";
constexpr size_t kInitImageBytesMax = 8 << 20;
constexpr uint64_t kSeedsMax = 1'000'000;

template <typename Number>
bool ParseNumber(std::string_view text, Number* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

absl::StatusOr<client::FileFormat> ParseFormat(const std::string& name) {
  static const std::map<std::string, client::FileFormat>& formats =
      *new std::map<std::string, client::FileFormat>{{"png", client::FileFormat::kPng},
                                                     {"jpeg", client::FileFormat::kJpeg},
                                                     {"jpg", client::FileFormat::kJpeg},
                                                     {"webp", client::FileFormat::kWebp},
                                                     {"raw", client::FileFormat::kRaw}};
  const auto found = formats.find(name);
  if (found == formats.end()) return InvalidField("format", absl::StrCat("must be png, jpeg, webp or raw, not ", name));
  return found->second;
}

absl::StatusOr<client::Priority> ParsePriority(const std::string& name) {
  for (const auto priority : {client::Priority::kInteractive, client::Priority::kNormal, client::Priority::kBulk}) {
    if (PriorityName(priority) == name) return priority;
  }
  return InvalidField("priority", absl::StrCat("must be interactive, normal or bulk, not ", name));
}

}  // namespace

void AddRecipeFlags(CLI::App* command, Recipe* recipe) {
  command
      ->add_option_function<std::string>(
          "--size",
          [recipe](const std::string& text) {
            const absl::Status status = ParseSize("--size", text, recipe);
            if (!status.ok()) throw CLI::ValidationError(std::string(status.message()));
          },
          "Width and height in pixels, multiples of 8 from 64 to 1024 (default: the model's)")
      ->type_name("WxH")
      ->group(kPictureGroup);
  command->add_option("--steps", recipe->steps, "Sampler steps, 1 to 4 (default: 1; 2 with --init-image)")
      ->type_name("N")
      ->group(kPictureGroup);
  command
      ->add_option("--guidance,--cfg-scale", recipe->guidance_scale, "Classifier-free guidance, 0 to 20 (default: 0)")
      ->type_name("X")
      ->group(kPictureGroup);
  command->add_option("--negative", recipe->negative_prompt, "What not to draw; needs --guidance above 1")
      ->type_name("TEXT")
      ->group(kPictureGroup);
  command
      ->add_option("-i,--init-image", recipe->init_image_path,
                   "PNG, JPEG or WebP file to start from (image-to-image), at most 8 MiB")
      ->type_name("FILE")
      ->group(kPictureGroup);
  command
      ->add_option("--strength", recipe->strength,
                   "How far to go from --init-image, above 0 to 1; steps * strength must be 1 or more (default: 0.5)")
      ->type_name("X")
      ->group(kPictureGroup);
  command->add_option("--vae", recipe->vae, "full, or tiny: quicker and less detailed (default: full)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"full", "tiny"}))
      ->group(kPictureGroup);
  command->add_option("--model", recipe->model, "Model name or digest, if the cluster serves several")
      ->type_name("NAME")
      ->group(kPictureGroup);
  command
      ->add_option("--priority", recipe->priority,
                   "interactive, normal or bulk: shares of the devices, 16 to 4 to 1 (default: normal for jobs, "
                   "interactive otherwise)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"interactive", "normal", "bulk"}));
  command->add_option("-f,--format", recipe->format, "png, jpeg, webp or raw (default: png)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"png", "jpeg", "jpg", "webp", "raw"}))
      ->group(kFileGroup);
  command->add_option("--quality", recipe->quality, "JPEG and WebP quality, 1 to 100 (default: 95)")
      ->type_name("N")
      ->group(kFileGroup);
  command
      ->add_flag_callback(
          "--no-metadata", [recipe] { recipe->embed_metadata = false; },
          "Leave the prompt and parameters out of the files")
      ->group(kFileGroup);
}

absl::Status ParseSize(const std::string& field, const std::string& text, Recipe* recipe) {
  const std::vector<std::string> sides = absl::StrSplit(text, 'x');
  int32_t width = 0;
  int32_t height = 0;
  if (sides.size() != 2 || !ParseNumber(sides[0], &width) || !ParseNumber(sides[1], &height)) {
    return InvalidField(field, absl::StrCat("must be WIDTHxHEIGHT, such as 512x512, not ", text));
  }
  recipe->width = width;
  recipe->height = height;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint64_t>> ParseSeeds(const std::string& text) {
  std::vector<uint64_t> seeds;
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  for (const std::string& part : parts) {
    const size_t dash = part.find('-', 1);
    uint64_t first = 0;
    uint64_t last = 0;
    const bool ok = dash == std::string::npos
                        ? ParseNumber(part, &first) && ParseNumber(part, &last)
                        : ParseNumber(part.substr(0, dash), &first) && ParseNumber(part.substr(dash + 1), &last);
    if (!ok || last < first) {
      return InvalidField("seeds", absl::StrCat("must be numbers and ranges, such as 1,5,10-20, not ", text));
    }
    if (last - first >= kSeedsMax || seeds.size() + (last - first) >= kSeedsMax) {
      return InvalidField("seeds", absl::StrCat("names more than ", kSeedsMax, " seeds"));
    }
    for (uint64_t seed = first; seed <= last; ++seed) seeds.push_back(seed);
  }
  return seeds;
}

absl::StatusOr<std::map<std::string, std::string>> ParseLabels(const std::vector<std::string>& texts) {
  std::map<std::string, std::string> labels;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return InvalidField("--label", absl::StrCat("must be KEY=VALUE, not ", text));
    }
    if (!labels.emplace(text.substr(0, equals), text.substr(equals + 1)).second) {
      return InvalidField("--label", absl::StrCat("is given twice for ", text.substr(0, equals)));
    }
  }
  return labels;
}

absl::StatusOr<absl::Duration> ParseDeadline(const std::string& text) { return ParseTime("--deadline", text); }

absl::StatusOr<absl::Duration> ParseTime(const std::string& flag, const std::string& text) {
  absl::Duration duration;
  double seconds = 0;
  if (ParseNumber(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return InvalidField(flag, absl::StrCat("must be a time, such as 90s, 5m or 1h30m, not ", text));
  }
  if (!(duration > absl::ZeroDuration() && duration <= absl::Hours(24 * 365))) {
    return InvalidField(flag, absl::StrCat("must be above zero and at most a year, not ", text));
  }
  return duration;
}

absl::StatusOr<client::GenerateRequest> MakeRequest(const Recipe& recipe) {
  client::GenerateRequest request;
  request.negative_prompt = recipe.negative_prompt;
  request.width = recipe.width;
  request.height = recipe.height;
  request.steps = recipe.steps;
  request.guidance_scale = recipe.guidance_scale;
  request.strength = recipe.strength;
  request.quality = recipe.quality;
  request.embed_metadata = recipe.embed_metadata;
  request.model = recipe.model;
  if (recipe.format.has_value()) {
    TURBOFLEET_ASSIGN_OR_RETURN(request.format, ParseFormat(*recipe.format));
  }
  if (recipe.priority.has_value()) {
    TURBOFLEET_ASSIGN_OR_RETURN(request.priority, ParsePriority(*recipe.priority));
  }
  if (recipe.vae.has_value()) {
    if (*recipe.vae != "full" && *recipe.vae != "tiny") {
      return InvalidField("vae", absl::StrCat("must be full or tiny, not ", *recipe.vae));
    }
    request.vae = *recipe.vae == "tiny" ? client::Vae::kTiny : client::Vae::kFull;
  }
  if (!recipe.init_image_path.empty()) {
    absl::StatusOr<std::string> file = ReadFile(recipe.init_image_path, kInitImageBytesMax);
    if (!file.ok()) return InvalidField("init_image", std::string(file.status().message()));
    if (file->empty()) return InvalidField("init_image", absl::StrCat(recipe.init_image_path, " is empty"));
    request.init_image = *std::move(file);
  }
  return request;
}

absl::Status InFlagWords(const absl::Status& status) {
  static const std::map<std::string, std::string>& flags =
      *new std::map<std::string, std::string>{{"negative_prompt", "--negative"},
                                              {"seed", "--seed"},
                                              {"count", "--count"},
                                              {"seeds", "--seeds"},
                                              {"width", "--size (width)"},
                                              {"height", "--size (height)"},
                                              {"steps", "--steps"},
                                              {"guidance_scale", "--guidance"},
                                              {"init_image", "--init-image"},
                                              {"strength", "--strength"},
                                              {"format", "--format"},
                                              {"quality", "--quality"},
                                              {"embed_metadata", "--no-metadata"},
                                              {"vae", "--vae"},
                                              {"model", "--model"},
                                              {"priority", "--priority"},
                                              {"labels", "--label"},
                                              {"timeout", "--timeout"},
                                              {"retention", "--retention"},
                                              {"request_id", "--request-id"},
                                              {"prompts", "PROMPT"}};
  const std::vector<std::string> fields = client::BadFieldsOf(status);
  const std::string message(status.message());
  if (fields.size() != 1 || message.rfind(fields[0] + ": ", 0) != 0) return status;
  const std::string rest = message.substr(fields[0].size() + 2);
  const size_t bracket = fields[0].find('[');
  const auto found = flags.find(fields[0].substr(0, bracket));
  if (found == flags.end()) return absl::InvalidArgumentError(absl::StrCat(fields[0], ": ", rest));
  const std::string item = bracket == std::string::npos ? "" : fields[0].substr(bracket);
  return absl::InvalidArgumentError(absl::StrCat(found->second, item, ": ", rest));
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t bytes_max) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::string content;
  std::vector<char> buffer(1 << 16);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || file.gcount() > 0) {
    content.append(buffer.data(), static_cast<size_t>(file.gcount()));
    if (content.size() > bytes_max) {
      return absl::InvalidArgumentError(absl::StrCat(path, " has more than ", bytes_max, " bytes"));
    }
  }
  if (file.bad()) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return content;
}

std::string FormatName(client::FileFormat format) {
  switch (format) {
    case client::FileFormat::kPng:
      return "png";
    case client::FileFormat::kJpeg:
      return "jpeg";
    case client::FileFormat::kWebp:
      return "webp";
    case client::FileFormat::kRaw:
      return "raw";
  }
  return "png";
}

std::string PriorityName(client::Priority priority) {
  switch (priority) {
    case client::Priority::kInteractive:
      return "interactive";
    case client::Priority::kNormal:
      return "normal";
    case client::Priority::kBulk:
      return "bulk";
  }
  return "normal";
}

std::string FileExtension(client::FileFormat format) {
  if (format == client::FileFormat::kJpeg) return "jpg";
  return format == client::FileFormat::kRaw ? "rgb" : FormatName(format);
}

}  // namespace turbofleet::cli
