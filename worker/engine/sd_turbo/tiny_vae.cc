#include "worker/engine/sd_turbo/tiny_vae.h"

#include <ATen/ATen.h>

namespace turbofleet::sd_turbo {

TinyVae::Block::Block(const Weights& weights, int64_t channels)
    : first(weights.Sub("conv.0"), {.in = channels, .out = channels}),
      second(weights.Sub("conv.2"), {.in = channels, .out = channels}),
      third(weights.Sub("conv.4"), {.in = channels, .out = channels}) {}

at::Tensor TinyVae::Block::operator()(const at::Tensor& x) const {
  at::Tensor hidden = first(x).relu_();
  hidden = second(hidden).relu_();
  return third(hidden).add_(x).relu_();
}

TinyVae::TinyVae(const TinyVaeConfig& config, const Weights& weights) {
  BuildEncoder(config, weights.Sub("encoder"));
  BuildDecoder(config, weights.Sub("decoder"));
}

// In the file the layers of all stages are one list; activations and upsamplers count as layers without weights.
void TinyVae::BuildEncoder(const TinyVaeConfig& config, const Weights& weights) {
  const int64_t channels = config.encoder_channels.front();
  size_t layer = 0;
  for (size_t i = 0; i < config.encoder_blocks.size(); ++i) {
    const Conv2d::Options options = i == 0
                                        ? Conv2d::Options{.in = 3, .out = channels}
                                        : Conv2d::Options{.in = channels, .out = channels, .stride = 2, .bias = false};
    Stage stage{.blocks = {}, .convolution = Conv2d(weights.Sub("layers", layer++), options)};
    for (int64_t k = 0; k < config.encoder_blocks[i]; ++k) {
      stage.blocks.emplace_back(weights.Sub("layers", layer++), channels);
    }
    encoder_.push_back(std::move(stage));
  }
  ends_.emplace_back(weights.Sub("layers", layer), Conv2d::Options{.in = channels, .out = config.latent_channels});
}

void TinyVae::BuildDecoder(const TinyVaeConfig& config, const Weights& weights) {
  const int64_t channels = config.decoder_channels.front();
  ends_.emplace_back(weights.Sub("layers", 0), Conv2d::Options{.in = config.latent_channels, .out = channels});
  size_t layer = 2;
  for (size_t i = 0; i < config.decoder_blocks.size(); ++i) {
    const bool is_last = i + 1 == config.decoder_blocks.size();
    std::vector<Block> blocks;
    for (int64_t k = 0; k < config.decoder_blocks[i]; ++k) {
      blocks.emplace_back(weights.Sub("layers", layer++), channels);
    }
    if (!is_last) ++layer;
    const Conv2d::Options options{.in = channels, .out = is_last ? 3 : channels, .bias = is_last};
    decoder_.push_back({.blocks = std::move(blocks), .convolution = Conv2d(weights.Sub("layers", layer++), options)});
  }
}

at::Tensor TinyVae::Encode(const at::Tensor& picture) const {
  at::Tensor x = picture.add(1).div_(2).contiguous(at::MemoryFormat::ChannelsLast);
  for (const Stage& stage : encoder_) {
    x = stage.convolution(x);
    for (const Block& block : stage.blocks) x = block(x);
  }
  return ends_.front()(x);
}

at::Tensor TinyVae::Decode(const at::Tensor& latents) const {
  const at::Tensor clamped = at::tanh(latents / 3).mul_(3).contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor x = ends_.back()(clamped).relu_();
  for (size_t i = 0; i < decoder_.size(); ++i) {
    for (const Block& block : decoder_[i].blocks) x = block(x);
    if (i + 1 < decoder_.size()) x = UpsampleNearest(x, 2 * x.size(2), 2 * x.size(3));
    x = decoder_[i].convolution(x);
  }
  return x.mul_(2).sub_(1);
}

}  // namespace turbofleet::sd_turbo
