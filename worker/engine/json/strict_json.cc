#include "worker/engine/json/strict_json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace turbofleet {
namespace {

using Json = nlohmann::json;

// Builds the value while it watches the limits. Returning false ends the parse.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit StrictBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Add(value) != nullptr; }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    const auto [member, is_new] = open_.back()->get_ref<Json::object_t&>().emplace(name, nullptr);
    if (!is_new) return Fail(absl::StrCat("the key ", Quoted(name), " is there twice"));
    member_ = &member->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("not JSON at byte ", position));
  }

  Json Take() { return std::move(root_); }
  const std::string& error() const { return error_; }

 private:
  bool Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

  // Where the value was put; null when a limit is reached.
  Json* Add(Json value) {
    if (++values_ > limits_.values_max) {
      Fail(absl::StrCat("more than ", limits_.values_max, " values"));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      Json::array_t& array = open_.back()->get_ref<Json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *member_ = std::move(value);
    return member_;
  }

  bool Open(Json container) {
    if (open_.size() >= static_cast<size_t>(limits_.depth_max)) {
      return Fail(absl::StrCat("nested deeper than ", limits_.depth_max));
    }
    Json* const added = Add(std::move(container));
    if (added == nullptr) return false;
    open_.push_back(added);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  Json root_;
  // Containers that are not closed yet. An outer one does not grow while an inner one is open, so none moves.
  std::vector<Json*> open_;
  Json* member_ = nullptr;
  size_t values_ = 0;
  std::string error_;
};

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  ~FileDescriptor() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return descriptor_; }

 private:
  const int descriptor_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat("larger than ", limits.bytes_max, " bytes"));
  }
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON at byte ", nul));
  }
  try {
    StrictBuilder builder(limits);
    if (!Json::sax_parse(text.begin(), text.end(), &builder)) return absl::InvalidArgumentError(builder.error());
    return builder.Take();
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", error.what()));
  }
}

absl::StatusOr<std::string> ReadFileLimited(const std::string& path, size_t bytes_max) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? absl::NotFoundError(message) : absl::UnavailableError(message);
  }
  struct stat facts = {};
  if (fstat(file.get(), &facts) != 0) return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  if (!S_ISREG(facts.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  if (static_cast<uint64_t>(facts.st_size) > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": larger than ", bytes_max, " bytes"));
  }
  std::string text(static_cast<size_t>(facts.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = read(file.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
    if (count == 0) return absl::UnavailableError(absl::StrCat(path, ": it became shorter while it was read"));
    done += static_cast<size_t>(count);
  }
  return text;
}

absl::StatusOr<nlohmann::json> ReadStrictJson(const std::string& path, const JsonLimits& limits) {
  TURBOFLEET_ASSIGN_OR_RETURN(const std::string text, ReadFileLimited(path, limits.bytes_max));
  absl::StatusOr<nlohmann::json> value = ParseStrictJson(text, limits);
  if (!value.ok()) return Annotate(value.status(), path);
  return value;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kCharactersMax = 120;
  const bool is_long = text.size() > kCharactersMax;
  return absl::StrCat("'", absl::CHexEscape(std::string(text.substr(0, kCharactersMax))), is_long ? "...'" : "'");
}

}  // namespace turbofleet
