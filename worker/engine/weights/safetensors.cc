#include "worker/engine/weights/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "worker/engine/json/strict_json.h"

namespace turbofleet {
namespace {

using TensorMap = std::map<std::string, TensorView>;

constexpr size_t kPrefixBytes = 8;
constexpr size_t kDimensionsMax = 16;

// What the header says of one tensor.
struct Entry {
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;  // Begin and end, from the end of the header.
  std::set<std::string> fields;
};

// Reads a header's JSON, whose form is fixed, as a stream: a hostile header costs no more memory than its own size
// and is left at its first mistake.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(size_t tensors_max) : tensors_max_(tensors_max) {}

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kTop:
        place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
        return true;
      default:
        return Misplaced();
    }
  }

  bool end_object() override {
    if (place_ == Place::kTensor && entries_.at(name_).fields.size() != 3) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), ": dtype, shape or data_offsets is missing"));
    }
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool key(string_t& name) override {
    switch (place_) {
      case Place::kTop:
        return Name(name);
      case Place::kMetadata:
        if (!metadata_keys_.insert(name).second)
          return Fail(absl::StrCat("metadata ", Quoted(name), " is there twice"));
        return true;
      default:
        return Field(name);
    }
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != "dtype") return Misplaced();
    entries_.at(name_).dtype = std::move(value);
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Misplaced();
    place_ = Place::kNumbers;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) return Misplaced();
    Entry& entry = entries_.at(name_);
    std::vector<uint64_t>& numbers = field_ == "shape" ? entry.shape : entry.offsets;
    if (numbers.size() >= kDimensionsMax) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), ": ", field_, " has more than ", kDimensionsMax, " numbers"));
    }
    numbers.push_back(value);
    return true;
  }

  bool null() override { return Misplaced(); }
  bool boolean(bool) override { return Misplaced(); }
  bool number_integer(number_integer_t) override { return Misplaced(); }
  bool number_float(number_float_t, const string_t&) override { return Misplaced(); }
  bool binary(binary_t&) override { return Misplaced(); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("the header is not JSON at its byte ", position));
  }

  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::string& error() const { return error_; }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kNumbers, kEnd };

  bool Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

  bool Misplaced() {
    if (place_ == Place::kStart) return Fail("the header is not a JSON object");
    if (place_ == Place::kMetadata) return Fail("__metadata__ holds something other than strings");
    if (place_ == Place::kTop) return Fail(absl::StrCat(Quoted(name_), ": not an object"));
    return Fail(absl::StrCat("tensor ", Quoted(name_), ": ", field_, " is of a wrong type"));
  }

  bool Name(string_t& name) {
    name_ = std::move(name);
    if (name_ == "__metadata__") {
      if (has_metadata_) return Fail("__metadata__ is there twice");
      has_metadata_ = true;
      return true;
    }
    if (entries_.size() >= tensors_max_) return Fail(absl::StrCat("more than ", tensors_max_, " tensors"));
    if (!entries_.emplace(name_, Entry()).second) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), " is there twice"));
    }
    return true;
  }

  bool Field(string_t& name) {
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return Fail(absl::StrCat("tensor ", Quoted(name_), ": unknown field ", Quoted(name)));
    }
    field_ = std::move(name);
    if (!entries_.at(name_).fields.insert(field_).second) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), ": ", field_, " is there twice"));
    }
    return true;
  }

  const size_t tensors_max_;
  Place place_ = Place::kStart;
  std::string name_;   // Of the tensor that is being read.
  std::string field_;  // Of the tensor's fields, the one that is being read.
  bool has_metadata_ = false;
  std::set<std::string> metadata_keys_;
  std::map<std::string, Entry> entries_;
  std::string error_;
};

struct DTypeFacts {
  const char* name;
  DType dtype;
  uint64_t size_bytes;
};
constexpr DTypeFacts kDTypes[] = {
    {"F32", DType::kFloat32, 4}, {"F16", DType::kFloat16, 2}, {"BF16", DType::kBfloat16, 2}, {"I64", DType::kInt64, 8}};

// The view that the header promises, its bytes not yet placed.
absl::StatusOr<TensorView> ToView(const Entry& entry) {
  const auto* const facts = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                         [&](const DTypeFacts& known) { return entry.dtype == known.name; });
  if (facts == std::end(kDTypes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Quoted(entry.dtype), " is not one of F32, F16, BF16 and I64"));
  }
  if (entry.offsets.size() != 2) return absl::InvalidArgumentError("data_offsets are not two numbers");
  if (entry.offsets[0] > entry.offsets[1]) return absl::InvalidArgumentError("data_offsets end before they begin");
  TensorView view;
  view.dtype = facts->dtype;
  uint64_t size_bytes = facts->size_bytes;
  for (const uint64_t extent : entry.shape) {
    // Every extent, even beside one of 0, so that callers may multiply them in any order.
    if (extent > static_cast<uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(size_bytes, std::max<uint64_t>(extent, 1), &size_bytes) ||
        size_bytes > static_cast<uint64_t>(INT64_MAX)) {
      return absl::InvalidArgumentError("the shape is too large");
    }
    view.shape.push_back(static_cast<int64_t>(extent));
  }
  if (std::find(entry.shape.begin(), entry.shape.end(), 0u) != entry.shape.end()) size_bytes = 0;
  if (size_bytes != entry.offsets[1] - entry.offsets[0]) {
    return absl::InvalidArgumentError(absl::StrCat("dtype and shape need ", size_bytes, " bytes, data_offsets span ",
                                                   entry.offsets[1] - entry.offsets[0]));
  }
  view.size_bytes = size_bytes;
  return view;
}

// The tensors must cover the data without gap or overlap, so that no byte has two meanings or none.
absl::Status CheckCover(const std::map<std::string, Entry>& entries, uint64_t data_bytes) {
  std::vector<std::tuple<uint64_t, uint64_t, const std::string*>> spans;
  for (const auto& [name, entry] : entries) spans.emplace_back(entry.offsets[0], entry.offsets[1], &name);
  std::sort(spans.begin(), spans.end());
  uint64_t covered = 0;
  for (const auto& [begin, end, name] : spans) {
    if (begin != covered || end > data_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(*name), ": data_offsets ", begin, " to ", end,
          end > data_bytes ? " are beyond the end of the file" : " leave a gap or overlap with another tensor"));
    }
    covered = end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(data_bytes - covered, " bytes at the end belong to no tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorMap> ParseOrThrow(const std::byte* bytes, size_t size, const WeightFiles::Limits& limits) {
  if (size < kPrefixBytes) return absl::InvalidArgumentError("shorter than the header's length field");
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kPrefixBytes; ++i) header_bytes |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (header_bytes > limits.header_bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat("the header is larger than ", limits.header_bytes_max, " bytes"));
  }
  if (header_bytes > size - kPrefixBytes) {
    return absl::InvalidArgumentError("the file ends before its header does");
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes) + kPrefixBytes, header_bytes);
  if (header.empty() || header.front() != '{') return absl::InvalidArgumentError("the header is not a JSON object");
  // The JSON library takes a NUL byte for the end of the text.
  if (header.find('\0') != std::string_view::npos) return absl::InvalidArgumentError("a NUL byte in the header");

  HeaderReader reader(limits.tensors_max);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) {
    return absl::InvalidArgumentError(reader.error());
  }
  TensorMap tensors;
  for (const auto& [name, entry] : reader.entries()) {
    absl::StatusOr<TensorView> view = ToView(entry);
    if (!view.ok()) return Annotate(view.status(), absl::StrCat("tensor ", Quoted(name)));
    tensors.emplace(name, *std::move(view));
  }
  TURBOFLEET_RETURN_IF_ERROR(CheckCover(reader.entries(), size - kPrefixBytes - header_bytes));
  for (auto& [name, view] : tensors) {
    view.data = bytes + kPrefixBytes + header_bytes + reader.entries().at(name).offsets[0];
  }
  return tensors;
}

// A read-only mapping of a whole file.
class Mapping {
 public:
  static absl::StatusOr<Mapping> Map(const std::string& path) {
    // Without O_NONBLOCK, opening a named pipe would wait for a writer.
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return ErrnoStatus(path);
    absl::StatusOr<Mapping> mapping = MapOpen(path, file);
    close(file);
    return mapping;
  }

  Mapping(Mapping&& other) noexcept
      : bytes_(std::exchange(other.bytes_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (bytes_ != nullptr) munmap(bytes_, size_);
  }

  const std::byte* bytes() const { return static_cast<const std::byte*>(bytes_); }
  size_t size() const { return size_; }

 private:
  Mapping(void* bytes, size_t size) : bytes_(bytes), size_(size) {}

  static absl::Status ErrnoStatus(const std::string& path) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }

  static absl::StatusOr<Mapping> MapOpen(const std::string& path, int file) {
    struct stat facts = {};
    if (fstat(file, &facts) != 0) return ErrnoStatus(path);
    if (!S_ISREG(facts.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
    const auto size = static_cast<size_t>(facts.st_size);
    if (size == 0) return absl::InvalidArgumentError(absl::StrCat(path, ": empty"));
    void* const bytes = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) return ErrnoStatus(path);
    return Mapping(bytes, size);
  }

  void* bytes_;
  size_t size_;
};

// Whether a file of a component is there; a broken symbolic link counts as absent.
bool Exists(const std::string& path) {
  struct stat facts = {};
  return stat(path.c_str(), &facts) == 0;
}

// By shard, the tensors that the index says are in it.
using ShardPlan = std::map<std::string, std::vector<std::string>>;

absl::StatusOr<ShardPlan> ReadIndex(const std::string& path, const WeightFiles::Limits& limits) {
  TURBOFLEET_ASSIGN_OR_RETURN(
      const nlohmann::json index,
      ReadStrictJson(path, {.bytes_max = limits.header_bytes_max, .values_max = 2 * limits.tensors_max + 1000}));
  const auto error = [&path](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return error("weight_map is missing or no object");
  }
  const nlohmann::json& weights = index["weight_map"];
  if (weights.size() > limits.tensors_max) return error(absl::StrCat("more than ", limits.tensors_max, " tensors"));
  ShardPlan plan;
  for (const auto& [tensor, shard] : weights.items()) {
    if (!shard.is_string()) return error(absl::StrCat("weight_map: ", Quoted(tensor), " is no file name"));
    const std::string& name = shard.get_ref<const std::string&>();
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return error(absl::StrCat("weight_map: ", Quoted(name), " is not the name of a file in this folder"));
    }
    plan[name].push_back(tensor);
  }
  if (plan.empty()) return error("weight_map is empty");
  if (plan.size() > limits.shards_max) return error(absl::StrCat("more than ", limits.shards_max, " shards"));
  return plan;
}

}  // namespace

struct WeightFiles::State {
  std::vector<Mapping> mappings;
  std::vector<std::string> paths;
  TensorMap tensors;

  // Maps one more file and returns the names of its tensors.
  absl::StatusOr<std::set<std::string>> Add(const std::string& path, const Limits& limits) {
    TURBOFLEET_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Map(path));
    absl::StatusOr<TensorMap> parsed = ParseSafetensors(mapping.bytes(), mapping.size(), limits);
    if (!parsed.ok()) return Annotate(parsed.status(), path);
    std::set<std::string> names;
    for (auto& [name, view] : *parsed) {
      names.insert(name);
      if (!tensors.emplace(name, std::move(view)).second) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Quoted(name), " is in another shard too"));
      }
    }
    if (tensors.size() > limits.tensors_max) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", limits.tensors_max, " tensors in all"));
    }
    mappings.push_back(std::move(mapping));
    paths.push_back(path);
    return names;
  }
};

WeightFiles::WeightFiles(std::unique_ptr<State> state) : state_(std::move(state)) {}
WeightFiles::WeightFiles(WeightFiles&&) noexcept = default;
WeightFiles& WeightFiles::operator=(WeightFiles&&) noexcept = default;
WeightFiles::~WeightFiles() = default;

absl::StatusOr<WeightFiles> WeightFiles::Open(const std::string& path, const Limits& limits) {
  auto state = std::make_unique<State>();
  TURBOFLEET_RETURN_IF_ERROR(state->Add(path, limits).status());
  return WeightFiles(std::move(state));
}

absl::StatusOr<WeightFiles> WeightFiles::OpenComponent(const std::string& folder, const std::string& stem,
                                                       const Limits& limits) {
  std::vector<std::string> tried;
  for (const auto& [file, index] : {std::pair(".safetensors", ".safetensors.index.json"),
                                    std::pair(".fp16.safetensors", ".safetensors.index.fp16.json")}) {
    const std::string single = absl::StrCat(folder, "/", stem, file);
    if (Exists(single)) return Open(single, limits);
    const std::string sharded = absl::StrCat(folder, "/", stem, index);
    if (!Exists(sharded)) {
      tried.insert(tried.end(), {absl::StrCat(stem, file), absl::StrCat(stem, index)});
      continue;
    }
    TURBOFLEET_ASSIGN_OR_RETURN(const ShardPlan plan, ReadIndex(sharded, limits));
    auto state = std::make_unique<State>();
    for (const auto& [shard, tensors] : plan) {
      const std::string path = absl::StrCat(folder, "/", shard);
      absl::StatusOr<std::set<std::string>> names = state->Add(path, limits);
      if (!names.ok()) return Annotate(names.status(), sharded);
      for (const std::string& tensor : tensors) {
        if (names->count(tensor) > 0) continue;
        return absl::InvalidArgumentError(absl::StrCat(sharded, ": tensor ", Quoted(tensor), " is not in ", shard));
      }
    }
    return WeightFiles(std::move(state));
  }
  return absl::NotFoundError(absl::StrCat(folder, ": no weights; looked for ", absl::StrJoin(tried, ", ")));
}

const TensorMap& WeightFiles::Tensors() const { return state_->tensors; }
const std::vector<std::string>& WeightFiles::Paths() const { return state_->paths; }

absl::StatusOr<TensorMap> ParseSafetensors(const std::byte* bytes, size_t size, const WeightFiles::Limits& limits) {
  try {
    return ParseOrThrow(bytes, size, limits);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("the header cannot be read: ", error.what()));
  }
}

}  // namespace turbofleet
