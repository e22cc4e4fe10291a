// What made a picture, in the text that image tools read.
#pragma once

#include <string>

#include "worker/agent/work.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// The `parameters` text in the form that AUTOMATIC1111's web UI introduced:
//
//   PROMPT
//   Negative prompt: TEXT
//   Steps: 1, Sampler: Euler, CFG scale: 0, Seed: 42, Size: 512x512, Model hash: 0123456789, Model: sd-turbo, ...
//
// Readers take the last line for the settings and a line that starts with "Negative prompt:" for that, so line breaks
// inside of prompts become spaces. Thread-safe.
std::string ParametersText(const WorkImage& image, const RenderShape& shape, const EngineInfo& engine);

}  // namespace turbofleet
