// How far the engine may be from diffusers in float32, stage by stage. docs/reference/engine.md has the table with what
// was measured and why the budgets are what they are.
#pragma once

#include <string>

namespace turbofleet {

enum class Precision { kFloat32, kBfloat16 };

// Of StageError, in standard deviations of the stage.
struct Budget {
  double largest = 0;
  double mean_shift = 0;
};

inline Budget BudgetOf(const std::string& stage, Precision precision) {
  if (precision == Precision::kFloat32) {
    if (stage == "latents.start") return {.largest = 1e-5, .mean_shift = 1e-5};
    return {.largest = 2e-4, .mean_shift = 2e-5};
  }
  if (stage == "text.states") return {.largest = 0.05, .mean_shift = 0.005};
  return {.largest = 0.3, .mean_shift = 0.02};
}

// Of the finished picture, in dB.
inline double PsnrMin(Precision precision) { return precision == Precision::kFloat32 ? 50 : 35; }

}  // namespace turbofleet
