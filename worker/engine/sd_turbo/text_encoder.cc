#include "worker/engine/sd_turbo/text_encoder.h"

#include <ATen/ATen.h>

namespace turbofleet::sd_turbo {

TextEncoder::Layer::Layer(const TextConfig& config, const Weights& weights)
    : norm1(weights.Sub("layer_norm1"), config.hidden_size, config.layer_norm_eps),
      query(weights.Sub("self_attn.q_proj"), {.in = config.hidden_size, .out = config.hidden_size}),
      key(weights.Sub("self_attn.k_proj"), {.in = config.hidden_size, .out = config.hidden_size}),
      value(weights.Sub("self_attn.v_proj"), {.in = config.hidden_size, .out = config.hidden_size}),
      out(weights.Sub("self_attn.out_proj"), {.in = config.hidden_size, .out = config.hidden_size}),
      norm2(weights.Sub("layer_norm2"), config.hidden_size, config.layer_norm_eps),
      up(weights.Sub("mlp.fc1"), {.in = config.hidden_size, .out = config.intermediate_size}),
      down(weights.Sub("mlp.fc2"), {.in = config.intermediate_size, .out = config.hidden_size}) {}

at::Tensor TextEncoder::Layer::operator()(const at::Tensor& x, const TextConfig& config) const {
  const at::Tensor normal = norm1(x);
  const at::Tensor attended = x + out(CausalAttention(query(normal), key(normal), value(normal), config.heads));
  at::Tensor hidden = up(norm2(attended));
  hidden = config.activation == TextActivation::kGelu ? at::gelu(hidden) : hidden * at::sigmoid(hidden * 1.702);
  return attended + down(hidden);
}

TextEncoder::TextEncoder(const TextConfig& config, const Weights& weights)
    : config_(config),
      tokens_(weights.Sub("embeddings.token_embedding").Load("weight", {config.vocab_size, config.hidden_size})),
      positions_(
          weights.Sub("embeddings.position_embedding").Load("weight", {config.positions_max, config.hidden_size})),
      final_norm_(weights.Sub("final_layer_norm"), config.hidden_size, config.layer_norm_eps) {
  for (int64_t i = 0; i < config.layers; ++i) {
    layers_.emplace_back(config, weights.Sub("encoder.layers", static_cast<size_t>(i)));
  }
}

at::Tensor TextEncoder::operator()(const std::vector<int64_t>& ids) const {
  const auto length = static_cast<int64_t>(ids.size());
  const at::Tensor index = at::tensor(ids, at::kLong).to(tokens_.device());
  at::Tensor x = (at::embedding(tokens_, index) + positions_.narrow(0, 0, length)).unsqueeze(0);
  for (const Layer& layer : layers_) x = layer(x, config_);
  return final_norm_(x);
}

}  // namespace turbofleet::sd_turbo
