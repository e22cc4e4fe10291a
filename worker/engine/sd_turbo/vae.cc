#include "worker/engine/sd_turbo/vae.h"

#include <ATen/ATen.h>

#include <string>

namespace turbofleet::sd_turbo {
namespace {

constexpr double kNormEpsilon = 1e-6;

ResnetBlock::Options ResnetOptions(const VaeConfig& config, int64_t in, int64_t out) {
  return {.in = in, .out = out, .norm_groups = config.norm_groups, .epsilon = kNormEpsilon};
}

std::vector<ResnetBlock> Resnets(const VaeConfig& config, const Weights& weights, int64_t in, int64_t out,
                                 int64_t count) {
  std::vector<ResnetBlock> resnets;
  for (int64_t i = 0; i < count; ++i) {
    resnets.emplace_back(weights.Sub("resnets", static_cast<size_t>(i)), ResnetOptions(config, i == 0 ? in : out, out));
  }
  return resnets;
}

GroupNorm NormOut(const VaeConfig& config, const Weights& weights, int64_t channels) {
  return GroupNorm(weights.Sub("conv_norm_out"),
                   {.channels = channels, .groups = config.norm_groups, .epsilon = kNormEpsilon});
}

std::optional<Conv2d> Convolution1x1(const Weights& weights, bool present, int64_t channels) {
  if (!present) return std::nullopt;
  return Conv2d(weights, {.in = channels, .out = channels, .kernel = 1, .padding = 0});
}

}  // namespace

VaeMiddle::PixelAttention::PixelAttention(const VaeConfig& config, const Weights& weights)
    : norm(weights.Sub("group_norm"),
           {.channels = config.channels.back(), .groups = config.norm_groups, .epsilon = kNormEpsilon}),
      query(weights.Sub("to_q"), {.in = config.channels.back(), .out = config.channels.back()}),
      key(weights.Sub("to_k"), {.in = config.channels.back(), .out = config.channels.back()}),
      value(weights.Sub("to_v"), {.in = config.channels.back(), .out = config.channels.back()}),
      out(weights.Sub("to_out.0"), {.in = config.channels.back(), .out = config.channels.back()}) {}

at::Tensor VaeMiddle::PixelAttention::operator()(const at::Tensor& x) const {
  const at::Tensor normal = PixelsToSequence(norm(x));
  const at::Tensor attended = out(Attention(query(normal), key(normal), value(normal), /*heads=*/1));
  return SequenceToPixels(attended, x.size(2), x.size(3)).add_(x);
}

VaeMiddle::VaeMiddle(const VaeConfig& config, const Weights& weights)
    : first_(weights.Sub("resnets", 0), ResnetOptions(config, config.channels.back(), config.channels.back())),
      second_(weights.Sub("resnets", 1), ResnetOptions(config, config.channels.back(), config.channels.back())) {
  if (config.mid_attention) attention_.emplace(config, weights.Sub("attentions", 0));
}

at::Tensor VaeMiddle::operator()(const at::Tensor& x) const {
  const at::Tensor hidden = first_(x);
  return second_(attention_.has_value() ? (*attention_)(hidden) : hidden);
}

VaeEncoder::VaeEncoder(const VaeConfig& config, const Weights& weights)
    : conv_in_(weights.Sub("encoder.conv_in"), {.in = 3, .out = config.channels.front()}),
      middle_(config, weights.Sub("encoder.mid_block")),
      norm_out_(NormOut(config, weights.Sub("encoder"), config.channels.back())),
      conv_out_(weights.Sub("encoder.conv_out"), {.in = config.channels.back(), .out = 2 * config.latent_channels}),
      quant_conv_(Convolution1x1(weights.Sub("quant_conv"), config.quant_conv, 2 * config.latent_channels)) {
  for (size_t i = 0; i < config.channels.size(); ++i) {
    const Weights block = weights.Sub("encoder.down_blocks", i);
    const int64_t out = config.channels[i];
    const int64_t in = config.channels[i == 0 ? 0 : i - 1];
    VaeLevel level{.resnets = Resnets(config, block, in, out, config.layers), .resample = std::nullopt};
    if (i + 1 < config.channels.size()) {
      level.resample.emplace(block.Sub("downsamplers.0.conv"),
                             Conv2d::Options{.in = out, .out = out, .stride = 2, .padding = 0});
    }
    levels_.push_back(std::move(level));
  }
}

at::Tensor VaeEncoder::operator()(const at::Tensor& picture, const StageObserver& observer) const {
  at::Tensor x = conv_in_(picture.contiguous(at::MemoryFormat::ChannelsLast));
  for (size_t i = 0; i < levels_.size(); ++i) {
    for (const ResnetBlock& resnet : levels_[i].resnets) x = resnet(x);
    // Padded on the right and at the bottom only.
    if (levels_[i].resample.has_value()) x = (*levels_[i].resample)(at::constant_pad_nd(x, {0, 1, 0, 1}));
    Observe(observer, "vae.encoder.down_blocks." + std::to_string(i), x);
  }
  x = conv_out_(norm_out_.WithSilu(middle_(x)));
  if (quant_conv_.has_value()) x = (*quant_conv_)(x);
  Observe(observer, "vae.moments", x);
  return x;
}

VaeDecoder::VaeDecoder(const VaeConfig& config, const Weights& weights)
    : post_quant_conv_(Convolution1x1(weights.Sub("post_quant_conv"), config.post_quant_conv, config.latent_channels)),
      conv_in_(weights.Sub("decoder.conv_in"), {.in = config.latent_channels, .out = config.channels.back()}),
      middle_(config, weights.Sub("decoder.mid_block")),
      norm_out_(NormOut(config, weights.Sub("decoder"), config.channels.front())),
      conv_out_(weights.Sub("decoder.conv_out"), {.in = config.channels.front(), .out = 3}) {
  const size_t count = config.channels.size();
  for (size_t i = 0; i < count; ++i) {
    const Weights block = weights.Sub("decoder.up_blocks", i);
    const int64_t out = config.channels[count - 1 - i];
    const int64_t in = config.channels[i == 0 ? count - 1 : count - i];
    VaeLevel level{.resnets = Resnets(config, block, in, out, config.layers + 1), .resample = std::nullopt};
    if (i + 1 < count) {
      level.resample.emplace(block.Sub("upsamplers.0.conv"), Conv2d::Options{.in = out, .out = out});
    }
    levels_.push_back(std::move(level));
  }
}

at::Tensor VaeDecoder::operator()(const at::Tensor& latents, const StageObserver& observer) const {
  at::Tensor x = latents.contiguous(at::MemoryFormat::ChannelsLast);
  if (post_quant_conv_.has_value()) x = (*post_quant_conv_)(x);
  x = middle_(conv_in_(x));
  Observe(observer, "vae.decoder.mid_block", x);
  for (size_t i = 0; i < levels_.size(); ++i) {
    for (const ResnetBlock& resnet : levels_[i].resnets) x = resnet(x);
    if (levels_[i].resample.has_value()) {
      x = (*levels_[i].resample)(UpsampleNearest(x, 2 * x.size(2), 2 * x.size(3)));
    }
    Observe(observer, "vae.decoder.up_blocks." + std::to_string(i), x);
  }
  x = conv_out_(norm_out_.WithSilu(x));
  Observe(observer, "vae.decoder.conv_out", x);
  return x;
}

}  // namespace turbofleet::sd_turbo
