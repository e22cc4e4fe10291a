#include "tests/worker/sd_turbo/tiny_model.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "worker/engine/weights/safetensors.h"

namespace turbofleet {

std::string TinyModel() { return std::string(TURBOFLEET_SOURCE_DIR) + "/tests/golden/tiny_model"; }

TinyModelCopy::TinyModelCopy() {
  folder_ = std::filesystem::temp_directory_path() / "turbofleet-tiny-XXXXXX";
  if (mkdtemp(folder_.data()) == nullptr) std::abort();
  std::filesystem::copy(TinyModel(), folder_, std::filesystem::copy_options::recursive);
}

TinyModelCopy::~TinyModelCopy() { std::filesystem::remove_all(folder_); }

void TinyModelCopy::EditJson(const std::string& file, const std::function<void(nlohmann::json&)>& edit) {
  const std::string path = folder_ + "/" + file;
  nlohmann::json json = nlohmann::json::parse(std::ifstream(path));
  edit(json);
  std::ofstream(path) << json.dump(1);
}

void TinyModelCopy::EditTensors(const std::string& component,
                                const std::function<void(std::map<std::string, Tensor>&)>& edit) {
  const std::string stem = component == "text_encoder" ? "model" : "diffusion_pytorch_model";
  const std::string path = folder_ + "/" + component + "/" + stem + ".fp16.safetensors";
  std::map<std::string, Tensor> tensors;
  // Unmapped before the file is written anew.
  auto files = std::make_unique<WeightFiles>(*WeightFiles::Open(path, WeightFiles::Limits{}));
  for (const auto& [name, view] : files->Tensors()) {
    tensors[name] = {view.shape, std::string(reinterpret_cast<const char*>(view.data), view.size_bytes)};
  }
  files.reset();
  edit(tensors);
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {
        {"dtype", "F16"}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(reinterpret_cast<const char*>(&size), sizeof size);
  stream << text << data;
}

}  // namespace turbofleet
