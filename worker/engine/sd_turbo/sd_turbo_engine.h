// The SD-Turbo pipeline on libtorch: an Engine that loads a Hugging Face diffusers folder as it is. No header of
// libtorch is included here.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/engine.h"

namespace turbofleet {

struct SdTurboOptions {
  std::string model_dir;               // Holds model_index.json.
  std::string device = "cpu";          // "cpu", "cuda" (the same as "cuda:0") or "cuda:N".
  std::string precision = "bfloat16";  // "float32", "bfloat16" or, on GPUs only, "float16".
  int threads = 0;                     // CPU threads of the process's tensor work; 0: the library's choice.
  int batch_images_max = 8;            // At least 1.
  int text_cache_entries_max = 128;    // Prompts whose text states are kept.
  std::string tiny_vae_dir;            // An AutoencoderTiny folder. Empty: `<model_dir>/vae_tiny` if there is one.
  // For people. Empty: the name of the model's folder, or of the folder around it where that is "model".
  std::string model_name;
  // Where digests of large models are remembered. Empty: `${XDG_CACHE_HOME:-~/.cache}/turbofleet`.
  std::string digest_cache_dir;
};

// Loads the model. NOT_FOUND: a file is missing. INVALID_ARGUMENT: an option is out of range, or the folder holds what
// this engine cannot run; the message names the file and the key, or the tensor. FAILED_PRECONDITION: there is no such
// device. RESOURCE_EXHAUSTED: the device has no memory for it.
//
// Images of a batch are rendered one after the other, so that no picture depends on its neighbours. `threads` and the
// precision do enter into the last bits of a picture; docs/reference/engine.md has what was found.
absl::StatusOr<std::unique_ptr<Engine>> MakeSdTurboEngine(const SdTurboOptions& options);

// Makes the C library keep freed memory instead of returning it to the system: the large tensors of a picture come and
// go at once, and mapping their pages anew costs a fifth of the time. For the whole process, so programs call it first
// thing in main; libraries and tests do not.
void KeepFreedMemory();

}  // namespace turbofleet
