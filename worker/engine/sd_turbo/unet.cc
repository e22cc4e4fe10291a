#include "worker/engine/sd_turbo/unet.h"

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <utility>

namespace turbofleet::sd_turbo {
namespace {

constexpr double kLongestPeriod = 10'000;

// The sinusoidal embedding of each time step: [time_steps, channels], float32.
at::Tensor EmbedTimeSteps(const UNetConfig& config, const std::vector<double>& time_steps) {
  const int64_t half = config.levels.front().channels / 2;
  const at::Tensor exponent =
      at::arange(half, at::kFloat).mul_(-std::log(kLongestPeriod)) / (static_cast<double>(half) - config.freq_shift);
  const at::Tensor angle = at::tensor(time_steps, at::kFloat).unsqueeze(1) * exponent.exp().unsqueeze(0);
  return config.flip_sin_to_cos ? at::cat({angle.cos(), angle.sin()}, 1) : at::cat({angle.sin(), angle.cos()}, 1);
}

at::Tensor ApplyLinear(const Weights& weights, const at::Tensor& x, int64_t out) {
  return Linear(weights, {.in = x.size(-1), .out = out})(x);
}

}  // namespace

// Builds the parts of a UNet, all of which need the time embedding.
class UNet::Builder {
 public:
  Builder(const UNetConfig& config, const Weights& weights, const std::vector<double>& time_steps)
      : config_(config), weights_(weights) {
    const at::Tensor embedded = EmbedTimeSteps(config, time_steps).to(weights.placement().device);
    const Weights time = weights.Sub("time_embedding").InFloat32();
    // One row at a time: a product of several rows may round differently from that of one.
    for (int64_t row = 0; row < embedded.size(0); ++row) {
      const at::Tensor hidden = at::silu(ApplyLinear(time.Sub("linear_1"), embedded[row], config.time_channels));
      time_rows_.push_back(at::silu(ApplyLinear(time.Sub("linear_2"), hidden, config.time_channels)));
    }
  }

  TimedResnet Resnet(const Weights& weights, int64_t in, int64_t out) const {
    TimedResnet resnet{
        .block = ResnetBlock(weights,
                             {.in = in, .out = out, .norm_groups = config_.norm_groups, .epsilon = config_.norm_eps}),
        .biases = {}};
    const at::Tensor bias = weights.Sub("conv1").InFloat32().Load("bias", {out});
    for (const at::Tensor& row : time_rows_) {
      const at::Tensor shift = ApplyLinear(weights.Sub("time_emb_proj").InFloat32(), row, out);
      resnet.biases.push_back((bias + shift).to(weights.placement().dtype));
    }
    return resnet;
  }

  Transformer Attention(const Weights& weights, const UNetLevel& level) const {
    return Transformer(weights, {.channels = level.channels,
                                 .heads = level.heads,
                                 .context_channels = level.context_channels,
                                 .blocks = level.transformers,
                                 .norm_groups = config_.norm_groups,
                                 .linear_projection = config_.linear_projection});
  }

  Level Down(size_t index) const {
    const UNetLevel& level = config_.levels[index];
    const Weights weights = weights_.Sub("down_blocks", index);
    Level result;
    int64_t in = config_.levels[index == 0 ? 0 : index - 1].channels;
    for (size_t i = 0; i < static_cast<size_t>(level.layers); ++i) {
      result.resnets.push_back(Resnet(weights.Sub("resnets", i), in, level.channels));
      if (level.down_attention) result.attentions.push_back(Attention(weights.Sub("attentions", i), level));
      in = level.channels;
    }
    if (index + 1 < config_.levels.size()) {
      result.resample.emplace(weights.Sub("downsamplers.0.conv"),
                              Conv2d::Options{.in = level.channels, .out = level.channels, .stride = 2});
    }
    return result;
  }

  Level Middle() const {
    const UNetLevel& level = config_.levels.back();
    const Weights weights = weights_.Sub("mid_block");
    Level result;
    result.resnets.push_back(Resnet(weights.Sub("resnets", 0), level.channels, level.channels));
    result.attentions.push_back(Attention(weights.Sub("attentions", 0), level));
    result.resnets.push_back(Resnet(weights.Sub("resnets", 1), level.channels, level.channels));
    return result;
  }

  // `block` counts from the coarsest level up.
  Level Up(size_t block) const {
    const size_t index = config_.levels.size() - 1 - block;
    const UNetLevel& level = config_.levels[index];
    const int64_t below = config_.levels[block == 0 ? index : index + 1].channels;
    const int64_t last_skip = config_.levels[index == 0 ? 0 : index - 1].channels;
    const Weights weights = weights_.Sub("up_blocks", block);
    Level result;
    for (int64_t i = 0; i <= level.layers; ++i) {
      const int64_t hidden = i == 0 ? below : level.channels;
      const int64_t skip = i == level.layers ? last_skip : level.channels;
      const auto at = static_cast<size_t>(i);
      result.resnets.push_back(Resnet(weights.Sub("resnets", at), hidden + skip, level.channels));
      if (level.up_attention) result.attentions.push_back(Attention(weights.Sub("attentions", at), level));
    }
    if (index > 0) {
      result.resample.emplace(weights.Sub("upsamplers.0.conv"),
                              Conv2d::Options{.in = level.channels, .out = level.channels});
    }
    return result;
  }

 private:
  const UNetConfig& config_;
  const Weights weights_;
  std::vector<at::Tensor> time_rows_;  // SiLU of the time embedding, by time step.
};

UNet::UNet(const UNetConfig& config, const Weights& weights, const std::vector<double>& time_steps) {
  const Builder builder(config, weights, time_steps);
  const int64_t finest = config.levels.front().channels;
  conv_in_.emplace(weights.Sub("conv_in"), Conv2d::Options{.in = config.latent_channels, .out = finest});
  for (size_t i = 0; i < config.levels.size(); ++i) down_.push_back(builder.Down(i));
  middle_ = builder.Middle();
  for (size_t i = 0; i < config.levels.size(); ++i) up_.push_back(builder.Up(i));
  norm_out_.emplace(weights.Sub("conv_norm_out").InFloat32(),
                    GroupNorm::Options{.channels = finest, .groups = config.norm_groups, .epsilon = config.norm_eps});
  conv_out_.emplace(weights.Sub("conv_out").InFloat32(), Conv2d::Options{.in = finest, .out = config.latent_channels});
}

at::Tensor UNet::RunPair(const Level& level, size_t index, const at::Tensor& x, size_t time_step,
                         const at::Tensor& context) {
  const TimedResnet& resnet = level.resnets[index];
  at::Tensor result = resnet.block(x, resnet.biases[time_step]);
  return index < level.attentions.size() ? level.attentions[index](result, context) : result;
}

at::Tensor UNet::operator()(const at::Tensor& latents, size_t time_step, const at::Tensor& context,
                            const StageObserver& observer) const {
  at::Tensor x = (*conv_in_)(latents.contiguous(at::MemoryFormat::ChannelsLast));
  Observe(observer, "unet.conv_in", x);
  std::vector<at::Tensor> skips = {x};
  for (size_t i = 0; i < down_.size(); ++i) {
    for (size_t k = 0; k < down_[i].resnets.size(); ++k) {
      x = RunPair(down_[i], k, x, time_step, context);
      skips.push_back(x);
    }
    if (down_[i].resample.has_value()) {
      x = (*down_[i].resample)(x);
      skips.push_back(x);
    }
    Observe(observer, "unet.down_blocks." + std::to_string(i), x);
  }
  for (size_t k = 0; k < middle_.resnets.size(); ++k) x = RunPair(middle_, k, x, time_step, context);
  Observe(observer, "unet.mid_block", x);
  for (size_t i = 0; i < up_.size(); ++i) {
    for (size_t k = 0; k < up_[i].resnets.size(); ++k) {
      x = RunPair(up_[i], k, at::cat({x, skips.back()}, 1), time_step, context);
      skips.pop_back();
    }
    // The skip's size rather than twice our own: the way down rounds odd sizes up.
    if (up_[i].resample.has_value()) {
      x = (*up_[i].resample)(UpsampleNearest(x, skips.back().size(2), skips.back().size(3)));
    }
    Observe(observer, "unet.up_blocks." + std::to_string(i), x);
  }
  x = (*conv_out_)(norm_out_->WithSilu(x.to(at::kFloat)));
  Observe(observer, "unet.conv_out", x);
  return x;
}

}  // namespace turbofleet::sd_turbo
