#include "worker/engine/sd_turbo/model.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/engine/sd_turbo/weight_source.h"
#include "worker/engine/weights/safetensors.h"

namespace turbofleet::sd_turbo {
namespace {

// One component's files and the loader of its tensors. Not movable, since parts point to one another.
struct OpenComponent {
  OpenComponent(WeightFiles opened, std::unique_ptr<WeightSource> weights, const Placement& placement)
      : files(std::move(opened)), source(std::move(weights)), loader(source.get(), placement) {}

  WeightFiles files;
  std::unique_ptr<WeightSource> source;
  WeightLoader loader;
};

absl::StatusOr<std::unique_ptr<OpenComponent>> Open(Component component, const std::string& folder,
                                                    const Placement& placement) {
  const std::string stem = component == Component::kTextEncoder ? "model" : "diffusion_pytorch_model";
  TURBOFLEET_ASSIGN_OR_RETURN(WeightFiles files, WeightFiles::OpenComponent(folder, stem, WeightFiles::Limits{}));
  TURBOFLEET_ASSIGN_OR_RETURN(std::unique_ptr<WeightSource> source, MakeFileWeightSource(component, files));
  return std::make_unique<OpenComponent>(std::move(files), std::move(source), placement);
}

void AppendIfThere(const std::string& folder, const std::string& part, const std::string& file,
                   std::vector<ModelFile>& files) {
  const std::string path = absl::StrCat(folder, "/", file);
  if (std::filesystem::exists(path)) files.push_back({.name = absl::StrCat(part, "/", file), .path = path});
}

void AppendWeights(const WeightFiles& weights, const std::string& part, std::vector<ModelFile>& files) {
  for (const std::string& path : weights.Paths()) {
    files.push_back({.name = absl::StrCat(part, "/", std::filesystem::path(path).filename().string()), .path = path});
  }
}

absl::Status CheckTokenizer(const ClipTokenizer& tokenizer, const TextConfig& text, const std::string& folder) {
  if (tokenizer.length() > text.positions_max) {
    return absl::InvalidArgumentError(absl::StrCat(folder, "/tokenizer: model_max_length is ", tokenizer.length(),
                                                   ", but the text encoder has ", text.positions_max, " positions"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const ModelFolders& folders, const Placement& placement) {
  const std::string& root = folders.model;
  TURBOFLEET_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(root));
  TURBOFLEET_ASSIGN_OR_RETURN(ClipTokenizer tokenizer, ClipTokenizer::Load(root + "/tokenizer"));
  TURBOFLEET_RETURN_IF_ERROR(CheckTokenizer(tokenizer, config.text, root));
  TURBOFLEET_ASSIGN_OR_RETURN(const auto text, Open(Component::kTextEncoder, root + "/text_encoder", placement));
  TURBOFLEET_ASSIGN_OR_RETURN(const auto unet, Open(Component::kUNet, root + "/unet", placement));
  TURBOFLEET_ASSIGN_OR_RETURN(const auto vae, Open(Component::kVae, root + "/vae", placement));
  Sampler sampler(config.sampler);

  std::vector<ModelFile> files = {{.name = "model_index.json", .path = root + "/model_index.json"}};
  AppendIfThere(root + "/scheduler", "scheduler", "scheduler_config.json", files);
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}) {
    AppendIfThere(root + "/tokenizer", "tokenizer", name, files);
  }
  AppendIfThere(root + "/text_encoder", "text_encoder", "config.json", files);
  AppendWeights(text->files, "text_encoder", files);
  AppendIfThere(root + "/unet", "unet", "config.json", files);
  AppendWeights(unet->files, "unet", files);
  AppendIfThere(root + "/vae", "vae", "config.json", files);
  AppendWeights(vae->files, "vae", files);

  auto model = std::make_unique<Model>(Model{
      .config = config,
      .placement = placement,
      .sampler = sampler,
      .tokenizer = std::move(tokenizer),
      .text_encoder = TextEncoder(config.text, Weights(&text->loader)),
      .unet = UNet(config.unet, Weights(&unet->loader), sampler.AllTimeSteps()),
      .vae_encoder = VaeEncoder(config.vae, Weights(&vae->loader)),
      .vae_decoder = VaeDecoder(config.vae, Weights(&vae->loader)),
      .tiny_vae = std::nullopt,
      .files = std::move(files),
  });
  TURBOFLEET_RETURN_IF_ERROR(text->loader.Finish());
  TURBOFLEET_RETURN_IF_ERROR(unet->loader.Finish());
  TURBOFLEET_RETURN_IF_ERROR(vae->loader.Finish());

  const std::string tiny = folders.tiny_vae.empty() ? root + "/vae_tiny" : folders.tiny_vae;
  if (folders.tiny_vae.empty() && !std::filesystem::exists(tiny)) return model;
  TURBOFLEET_ASSIGN_OR_RETURN(const TinyVaeConfig tiny_config, ReadTinyVaeConfig(tiny + "/config.json"));
  if (tiny_config.latent_channels != config.unet.latent_channels) {
    return absl::InvalidArgumentError(tiny + "/config.json: latent_channels: must equal in_channels of the UNet");
  }
  TURBOFLEET_ASSIGN_OR_RETURN(const auto weights, Open(Component::kTinyVae, tiny, placement));
  model->tiny_vae.emplace(tiny_config, Weights(&weights->loader));
  model->tiny_scaling_factor = tiny_config.scaling_factor;
  TURBOFLEET_RETURN_IF_ERROR(weights->loader.Finish());
  AppendIfThere(tiny, "vae_tiny", "config.json", model->files);
  AppendWeights(weights->files, "vae_tiny", model->files);
  return model;
}

}  // namespace turbofleet::sd_turbo
