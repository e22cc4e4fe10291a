// Copies of the tiny model of tests/golden, for tests to spoil.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace turbofleet {

// The folder in the source tree.
std::string TinyModel();

// A copy in a folder of its own, removed at the end.
class TinyModelCopy {
 public:
  TinyModelCopy();
  ~TinyModelCopy();
  TinyModelCopy(const TinyModelCopy&) = delete;
  TinyModelCopy& operator=(const TinyModelCopy&) = delete;

  const std::string& folder() const { return folder_; }

  // Changes a JSON file of the copy.
  void EditJson(const std::string& file, const std::function<void(nlohmann::json&)>& edit);

  struct Tensor {
    std::vector<int64_t> shape;
    std::string bytes;  // float16.
  };
  // Changes the tensors of a component ("unet") by name.
  void EditTensors(const std::string& component, const std::function<void(std::map<std::string, Tensor>&)>& edit);

 private:
  std::string folder_;
};

}  // namespace turbofleet
