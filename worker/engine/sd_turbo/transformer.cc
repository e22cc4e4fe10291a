#include "worker/engine/sd_turbo/transformer.h"

#include <ATen/ATen.h>

namespace turbofleet::sd_turbo {
namespace {

constexpr double kPixelNormEpsilon = 1e-6;  // Not the UNet's norm_eps.
constexpr double kBlockNormEpsilon = 1e-5;

}  // namespace

Transformer::CrossAttention::CrossAttention(const Weights& weights, const Options& options, int64_t context_channels)
    : heads(options.heads),
      query(weights.Sub("to_q"), {.in = options.channels, .out = options.channels, .bias = false}),
      key(weights.Sub("to_k"), {.in = context_channels, .out = options.channels, .bias = false}),
      value(weights.Sub("to_v"), {.in = context_channels, .out = options.channels, .bias = false}),
      out(weights.Sub("to_out.0"), {.in = options.channels, .out = options.channels}) {}

at::Tensor Transformer::CrossAttention::operator()(const at::Tensor& x, const at::Tensor& context) const {
  return out(Attention(query(x), key(context), value(context), heads));
}

Transformer::Block::Block(const Weights& weights, const Options& options)
    : norm1(weights.Sub("norm1"), options.channels, kBlockNormEpsilon),
      self_attention(weights.Sub("attn1"), options, options.channels),
      norm2(weights.Sub("norm2"), options.channels, kBlockNormEpsilon),
      text_attention(weights.Sub("attn2"), options, options.context_channels),
      norm3(weights.Sub("norm3"), options.channels, kBlockNormEpsilon),
      up(weights.Sub("ff.net.0.proj"), {.in = options.channels, .out = 8 * options.channels}),
      down(weights.Sub("ff.net.2"), {.in = 4 * options.channels, .out = options.channels}) {}

at::Tensor Transformer::Block::operator()(const at::Tensor& x, const at::Tensor& context) const {
  at::Tensor normal = norm1(x);
  at::Tensor sum = self_attention(normal, normal).add_(x);
  sum = text_attention(norm2(sum), context).add_(sum);
  const std::vector<at::Tensor> halves = up(norm3(sum)).chunk(2, -1);
  return down(at::gelu(halves[1]).mul_(halves[0])).add_(sum);
}

Transformer::Transformer(const Weights& weights, const Options& options)
    : norm_(weights.Sub("norm"),
            {.channels = options.channels, .groups = options.norm_groups, .epsilon = kPixelNormEpsilon}),
      in_(weights.Sub("proj_in"),
          {.in = options.channels, .out = options.channels, .stored_as_convolution = !options.linear_projection}),
      out_(weights.Sub("proj_out"),
           {.in = options.channels, .out = options.channels, .stored_as_convolution = !options.linear_projection}) {
  for (int64_t i = 0; i < options.blocks; ++i) {
    blocks_.emplace_back(weights.Sub("transformer_blocks", static_cast<size_t>(i)), options);
  }
}

at::Tensor Transformer::operator()(const at::Tensor& x, const at::Tensor& context) const {
  at::Tensor sequence = in_(PixelsToSequence(norm_(x)));
  for (const Block& block : blocks_) sequence = block(sequence, context);
  return SequenceToPixels(out_(sequence), x.size(2), x.size(3)).add_(x);
}

}  // namespace turbofleet::sd_turbo
