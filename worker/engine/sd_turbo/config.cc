#include "worker/engine/sd_turbo/config.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/engine/json/strict_json.h"
#include "worker/engine/sd_turbo/config_reader.h"

namespace turbofleet::sd_turbo {
namespace {

constexpr int64_t kChannelsMax = 16'384;
constexpr int64_t kLayersMax = 256;

void CheckClass(ConfigReader& json, const std::string& expected) {
  const std::string name = json.Text("_class_name", expected);
  if (name != expected) json.Refuse("_class_name", absl::StrCat(Quoted(name), " is not supported, only ", expected));
}

void CheckActivation(ConfigReader& json, const std::string& key) {
  const std::string name = json.Text(key, "silu");
  if (name != "silu" && name != "swish") json.Refuse(key, absl::StrCat(Quoted(name), " is not supported, only silu"));
}

// Tells for each block whether it is `attention` rather than `plain`.
std::vector<bool> AttentionBlocks(ConfigReader& json, const std::string& key, const std::vector<std::string>& names,
                                  const std::string& attention, const std::string& plain) {
  std::vector<bool> result;
  for (const std::string& name : names) {
    if (name != attention && name != plain) {
      json.Refuse(key, absl::StrCat("block type ", Quoted(name), " is not supported"));
    }
    result.push_back(name == attention);
  }
  return result;
}

// What diffusers' class knows and no Stable Diffusion 1.x, 2.x or Turbo folder uses.
void RefuseOtherUNets(ConfigReader& json) {
  json.Only("center_input_sample", false);
  json.Only("mid_block_type", "UNetMidBlock2DCrossAttn");
  json.Only("only_cross_attention", false);
  json.Only("downsample_padding", 1);
  json.Only("mid_block_scale_factor", 1);
  json.Only("dual_cross_attention", false);
  json.Only("resnet_time_scale_shift", "default");
  json.Only("resnet_skip_time_act", false);
  json.Only("resnet_out_scale_factor", 1.0);
  json.Only("time_embedding_type", "positional");
  json.Only("conv_in_kernel", 3);
  json.Only("conv_out_kernel", 3);
  json.Only("attention_type", "default");
  json.Only("class_embeddings_concat", false);
  json.Only("mid_block_only_cross_attention", false);
  for (const char* key : {"reverse_transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type",
                          "num_attention_heads", "class_embed_type", "addition_embed_type", "addition_time_embed_dim",
                          "num_class_embeds", "time_embedding_act_fn", "timestep_post_act", "time_cond_proj_dim",
                          "projection_class_embeddings_input_dim", "cross_attention_norm"}) {
    json.Only(key, nullptr);
  }
  json.Ignore("dropout");
  json.Ignore("upcast_attention");  // Products of the attention are summed in float32 in any case.
  json.Ignore("addition_embed_type_num_heads");
}

void ReadUNetLevels(ConfigReader& json, UNetConfig& config) {
  const std::vector<int64_t> channels = json.Integers("block_out_channels", {320, 640, 1280, 1280}, 1, kChannelsMax);
  const size_t count = channels.size();
  const auto down = json.Texts("down_block_types",
                               {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"});
  const auto up =
      json.Texts("up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"});
  if (down.size() != count) json.Refuse("down_block_types", "must have an entry for each of block_out_channels");
  if (up.size() != count) json.Refuse("up_block_types", "must have an entry for each of block_out_channels");
  const auto down_attention = AttentionBlocks(json, "down_block_types", down, "CrossAttnDownBlock2D", "DownBlock2D");
  const auto up_attention = AttentionBlocks(json, "up_block_types", up, "CrossAttnUpBlock2D", "UpBlock2D");
  const auto layers = json.IntegerOrList("layers_per_block", 2, count, 1, kLayersMax);
  const auto heads = json.IntegerOrList("attention_head_dim", 8, count, 1, kChannelsMax);
  const auto transformers = json.IntegerOrList("transformer_layers_per_block", 1, count, 1, kLayersMax);
  const auto context = json.IntegerOrList("cross_attention_dim", 1280, count, 1, kChannelsMax);
  if (!json.status().ok()) return;
  for (size_t i = 0; i < count; ++i) {
    if (channels[i] % heads[i] != 0) json.Refuse("attention_head_dim", "must divide block_out_channels");
    if (channels[i] % config.norm_groups != 0) json.Refuse("norm_num_groups", "must divide block_out_channels");
    if (context[i] != context[0]) json.Refuse("cross_attention_dim", "blocks of different width are not supported");
    config.levels.push_back({.channels = channels[i],
                             .layers = layers[i],
                             .heads = heads[i],
                             .transformers = transformers[i],
                             .context_channels = context[i],
                             .down_attention = down_attention[i],
                             .up_attention = up_attention[count - 1 - i]});
  }
}

void CheckVaeBlocks(ConfigReader& json, const std::string& key, const std::string& only, size_t count) {
  const auto names = json.Texts(key, {only});
  if (names.size() != count) json.Refuse(key, "must have an entry for each of block_out_channels");
  AttentionBlocks(json, key, names, only, only);
}

}  // namespace

absl::StatusOr<TextConfig> ReadTextConfig(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(ConfigReader json, ConfigReader::Open(path));
  TextConfig config;
  config.vocab_size = json.Integer("vocab_size", config.vocab_size, 1, 10'000'000);
  config.hidden_size = json.Integer("hidden_size", config.hidden_size, 1, kChannelsMax);
  config.intermediate_size = json.Integer("intermediate_size", config.intermediate_size, 1, 8 * kChannelsMax);
  config.layers = json.Integer("num_hidden_layers", config.layers, 1, kLayersMax);
  config.heads = json.Integer("num_attention_heads", config.heads, 1, kChannelsMax);
  config.positions_max = json.Integer("max_position_embeddings", config.positions_max, 2, 4096);
  config.layer_norm_eps = json.Real("layer_norm_eps", config.layer_norm_eps, 0, 1);
  const std::string activation = json.Text("hidden_act", "quick_gelu");
  if (activation == "gelu") {
    config.activation = TextActivation::kGelu;
  } else if (activation != "quick_gelu") {
    json.Refuse("hidden_act", absl::StrCat(Quoted(activation), " is not supported, only gelu and quick_gelu"));
  }
  const std::string type = json.Text("model_type", "clip_text_model");
  if (type != "clip_text_model") json.Refuse("model_type", absl::StrCat(Quoted(type), " is not supported"));
  json.Only("use_attention_mask", false);
  if (config.hidden_size % config.heads != 0) json.Refuse("num_attention_heads", "must divide hidden_size");
  // transformers writes dozens of keys that have no meaning for this class, so unknown keys are no error here.
  TURBOFLEET_RETURN_IF_ERROR(json.status());
  return config;
}

absl::StatusOr<UNetConfig> ReadUNetConfig(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(ConfigReader json, ConfigReader::Open(path));
  CheckClass(json, "UNet2DConditionModel");
  UNetConfig config;
  config.sample_size = json.Integer("sample_size", config.sample_size, 8, 128);
  config.latent_channels = json.Integer("in_channels", 4, 1, 64);
  if (json.Integer("out_channels", 4, 1, 64) != config.latent_channels) {
    json.Refuse("out_channels", "must equal in_channels");
  }
  CheckActivation(json, "act_fn");
  config.norm_groups = json.Integer("norm_num_groups", config.norm_groups, 1, kChannelsMax);
  config.norm_eps = json.Real("norm_eps", config.norm_eps, 0, 1);
  config.flip_sin_to_cos = json.Flag("flip_sin_to_cos", config.flip_sin_to_cos);
  config.freq_shift = json.Real("freq_shift", config.freq_shift, 0, 1);
  config.linear_projection = json.Flag("use_linear_projection", config.linear_projection);
  ReadUNetLevels(json, config);
  const int64_t time_channels = json.Integer("time_embedding_dim", 0, 1, 8 * kChannelsMax);
  RefuseOtherUNets(json);
  TURBOFLEET_RETURN_IF_ERROR(json.Finish());
  if (config.levels.front().channels % 2 != 0) json.Refuse("block_out_channels", "the first entry must be even");
  if (config.levels.front().channels < 4) json.Refuse("block_out_channels", "the first entry must be at least 4");
  config.time_channels = time_channels > 0 ? time_channels : 4 * config.levels.front().channels;
  TURBOFLEET_RETURN_IF_ERROR(json.status());
  return config;
}

absl::StatusOr<VaeConfig> ReadVaeConfig(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(ConfigReader json, ConfigReader::Open(path));
  CheckClass(json, "AutoencoderKL");
  VaeConfig config;
  config.channels = json.Integers("block_out_channels", {64}, 1, kChannelsMax);
  config.layers = json.Integer("layers_per_block", config.layers, 1, kLayersMax);
  config.latent_channels = json.Integer("latent_channels", config.latent_channels, 1, 64);
  config.norm_groups = json.Integer("norm_num_groups", config.norm_groups, 1, kChannelsMax);
  config.scaling_factor = json.Real("scaling_factor", config.scaling_factor, 1e-6, 1e6);
  config.quant_conv = json.Flag("use_quant_conv", config.quant_conv);
  config.post_quant_conv = json.Flag("use_post_quant_conv", config.post_quant_conv);
  config.mid_attention = json.Flag("mid_block_add_attention", config.mid_attention);
  CheckActivation(json, "act_fn");
  CheckVaeBlocks(json, "down_block_types", "DownEncoderBlock2D", config.channels.size());
  CheckVaeBlocks(json, "up_block_types", "UpDecoderBlock2D", config.channels.size());
  json.Only("in_channels", 3);
  json.Only("out_channels", 3);
  for (const char* key : {"shift_factor", "latents_mean", "latents_std"}) json.Only(key, nullptr);
  json.Ignore("sample_size");   // Of the pictures in training.
  json.Ignore("force_upcast");  // The Stable Diffusion pipelines never read it.
  for (const int64_t channels : config.channels) {
    if (channels % config.norm_groups != 0) json.Refuse("norm_num_groups", "must divide block_out_channels");
  }
  if (config.channels.size() != 4) json.Refuse("block_out_channels", "must have 4 entries (8 pixels to a latent)");
  TURBOFLEET_RETURN_IF_ERROR(json.Finish());
  return config;
}

absl::StatusOr<TinyVaeConfig> ReadTinyVaeConfig(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(ConfigReader json, ConfigReader::Open(path));
  CheckClass(json, "AutoencoderTiny");
  TinyVaeConfig config;
  config.latent_channels = json.Integer("latent_channels", config.latent_channels, 1, 64);
  config.encoder_channels = json.Integers("encoder_block_out_channels", {64, 64, 64, 64}, 1, kChannelsMax);
  config.decoder_channels = json.Integers("decoder_block_out_channels", {64, 64, 64, 64}, 1, kChannelsMax);
  config.encoder_blocks = json.Integers("num_encoder_blocks", {1, 3, 3, 3}, 0, kLayersMax);
  config.decoder_blocks = json.Integers("num_decoder_blocks", {3, 3, 3, 1}, 0, kLayersMax);
  config.scaling_factor = json.Real("scaling_factor", config.scaling_factor, 1e-6, 1e6);
  json.Only("in_channels", 3);
  json.Only("out_channels", 3);
  json.Only("act_fn", "relu");
  json.Only("upsample_fn", "nearest");
  json.Only("upsampling_scaling_factor", 2);
  json.Only("shift_factor", 0.0);
  for (const char* key : {"latent_magnitude", "latent_shift", "force_upcast", "block_out_channels"}) json.Ignore(key);
  for (const auto* list :
       {&config.encoder_channels, &config.decoder_channels, &config.encoder_blocks, &config.decoder_blocks}) {
    if (list->size() != 4) json.Refuse("num_encoder_blocks", "all lists must have 4 entries (8 pixels to a latent)");
  }
  for (const auto* list : {&config.encoder_channels, &config.decoder_channels}) {
    if (std::any_of(list->begin(), list->end(), [list](int64_t channels) { return channels != list->front(); })) {
      json.Refuse("encoder_block_out_channels", "all entries of a list must be equal");
    }
  }
  TURBOFLEET_RETURN_IF_ERROR(json.Finish());
  return config;
}

absl::StatusOr<SamplerConfig> ReadSamplerConfig(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(ConfigReader json, ConfigReader::Open(path));
  CheckClass(json, "EulerDiscreteScheduler");
  SamplerConfig config;
  config.train_steps = json.Integer("num_train_timesteps", config.train_steps, 4, 100'000);
  config.beta_start = json.Real("beta_start", config.beta_start, 0, 1);
  config.beta_end = json.Real("beta_end", config.beta_end, 0, 1);
  const std::string schedule = json.Text("beta_schedule", "linear");
  if (schedule == "scaled_linear") {
    config.beta_schedule = BetaSchedule::kScaledLinear;
  } else if (schedule != "linear") {
    json.Refuse("beta_schedule", absl::StrCat(Quoted(schedule), " is not supported, only linear and scaled_linear"));
  }
  const std::string prediction = json.Text("prediction_type", "epsilon");
  if (prediction == "v_prediction") {
    config.prediction = Prediction::kVelocity;
  } else if (prediction != "epsilon") {
    json.Refuse("prediction_type", absl::StrCat(Quoted(prediction), " is not supported"));
  }
  const std::string spacing = json.Text("timestep_spacing", "linspace");
  if (spacing != "trailing") {
    json.Refuse("timestep_spacing", absl::StrCat(Quoted(spacing), " is not supported, only trailing"));
  }
  json.Only("trained_betas", nullptr);
  json.Only("interpolation_type", "linear");
  json.Only("timestep_type", "discrete");
  json.Only("final_sigmas_type", "zero");
  for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "rescale_betas_zero_snr"}) {
    json.Only(key, false);
  }
  // Without meaning for trailing steps, discrete times and this sampler, though folders carry them.
  for (const char* key : {"steps_offset", "sigma_min", "sigma_max", "clip_sample", "skip_prk_steps", "set_alpha_to_one",
                          "clip_sample_range", "sample_max_value", "thresholding", "dynamic_thresholding_ratio"}) {
    json.Ignore(key);
  }
  TURBOFLEET_RETURN_IF_ERROR(json.Finish());
  return config;
}

absl::Status CheckModelIndex(const std::string& path) {
  TURBOFLEET_ASSIGN_OR_RETURN(const nlohmann::json index, ReadStrictJson(path, JsonLimits{}));
  const std::map<std::string, std::vector<std::string>> supported = {
      {"scheduler", {"EulerDiscreteScheduler"}},
      {"text_encoder", {"CLIPTextModel"}},
      {"tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}},
      {"unet", {"UNet2DConditionModel"}},
      {"vae", {"AutoencoderKL"}},
  };
  for (const auto& [part, classes] : supported) {
    const auto entry = index.is_object() ? index.find(part) : index.end();
    if (entry == index.end() || !entry->is_array() || entry->size() != 2 || !(*entry)[1].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", part, ": must be a list of library and class"));
    }
    const std::string name = (*entry)[1].get<std::string>();
    if (std::find(classes.begin(), classes.end(), name) == classes.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", part, ": ", Quoted(name), " is not supported, only ", classes.front()));
    }
  }
  const auto pipeline = index.find("_class_name");
  if (pipeline != index.end() && *pipeline != "StableDiffusionPipeline" &&
      *pipeline != "StableDiffusionImg2ImgPipeline") {
    return absl::InvalidArgumentError(absl::StrCat(path, ": _class_name: ", Quoted(pipeline->dump()),
                                                   " is not supported, only StableDiffusionPipeline"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir) {
  TURBOFLEET_RETURN_IF_ERROR(CheckModelIndex(model_dir + "/model_index.json"));
  ModelConfig config;
  TURBOFLEET_ASSIGN_OR_RETURN(config.sampler, ReadSamplerConfig(model_dir + "/scheduler/scheduler_config.json"));
  TURBOFLEET_ASSIGN_OR_RETURN(config.text, ReadTextConfig(model_dir + "/text_encoder/config.json"));
  TURBOFLEET_ASSIGN_OR_RETURN(config.unet, ReadUNetConfig(model_dir + "/unet/config.json"));
  TURBOFLEET_ASSIGN_OR_RETURN(config.vae, ReadVaeConfig(model_dir + "/vae/config.json"));
  if (config.unet.levels.front().context_channels != config.text.hidden_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(model_dir, "/unet/config.json: cross_attention_dim: must equal hidden_size of the text encoder"));
  }
  if (config.vae.latent_channels != config.unet.latent_channels) {
    return absl::InvalidArgumentError(
        absl::StrCat(model_dir, "/vae/config.json: latent_channels: must equal in_channels of the UNet"));
  }
  return config;
}

}  // namespace turbofleet::sd_turbo
