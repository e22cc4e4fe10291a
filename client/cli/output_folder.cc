#include "client/cli/output_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/recipe.h"
#include "common/errors.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace turbofleet::cli {
namespace {

constexpr size_t kManifestBytesMax = size_t{16} << 30;
constexpr size_t kPromptSlugBytesMax = 40;
constexpr size_t kNameBytesMax = 200;
constexpr int kSameNamesMax = 10'000;

absl::Status SystemError(const std::string& what, const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", what, " ", path));
}

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("write", path);
    content.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status AppendLine(int fd, const nlohmann::ordered_json& json, const std::string& path) {
  // Invalid UTF-8 cannot be written as JSON; what a server sends is not ours to trust.
  const std::string line = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  return WriteAll(fd, line, path);
}

// What is safe in file names everywhere.
std::string Slug(const std::string& text) {
  std::string slug;
  for (const char c : text) {
    if (slug.size() >= kPromptSlugBytesMax) break;
    if (std::isalnum(static_cast<unsigned char>(c))) {
      slug.push_back(c);
    } else if (!slug.empty() && slug.back() != '-') {
      slug.push_back('-');
    }
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug;
}

}  // namespace

absl::StatusOr<NameTemplate> NameTemplate::Parse(const std::string& text) {
  NameTemplate result;
  bool has_index = false;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '/' || text[i] == '}' || static_cast<unsigned char>(text[i]) < 0x20) {
      return InvalidField("--name-template", absl::StrCat("has no place for '", text.substr(i, 1), "'"));
    }
    if (text[i] != '{') {
      const size_t end = std::min(text.find_first_of("{}/", i), text.size());
      result.parts_.push_back({.field = "", .text = text.substr(i, end - i)});
      i = end;
      continue;
    }
    const size_t end = text.find('}', i);
    if (end == std::string::npos) return InvalidField("--name-template", "has an open brace");
    Part part{.field = text.substr(i + 1, end - i - 1), .text = ""};
    if (part.field.size() == 9 && part.field.rfind("index:0", 0) == 0 && part.field[7] >= '1' && part.field[8] == 'd') {
      part.digits = part.field[7] - '0';
      part.field = "index";
    }
    if (part.field != "index" && part.field != "seed" && part.field != "id" && part.field != "prompt") {
      return InvalidField("--name-template", absl::StrCat("does not know {", part.field,
                                                          "}; there are {index}, {index:06d}, {seed}, {id}, {prompt}"));
    }
    has_index |= part.field == "index";
    result.parts_.push_back(std::move(part));
    i = end + 1;
  }
  if (!has_index) return InvalidField("--name-template", "needs {index}, or names would repeat");
  if (text[0] == '.') return InvalidField("--name-template", "may not start with a dot");
  return result;
}

std::string NameTemplate::Format(const ManifestEntry& entry) const {
  std::string name;
  for (const Part& part : parts_) {
    if (part.field.empty()) {
      name += part.text;
    } else if (part.field == "index") {
      name += absl::StrFormat("%0*d", part.digits, entry.index);
    } else if (part.field == "seed") {
      absl::StrAppend(&name, entry.seed);
    } else {
      name += Slug(part.field == "id" ? entry.id : entry.prompt);
    }
  }
  return name.substr(0, kNameBytesMax);
}

absl::StatusOr<std::unique_ptr<OutputFolder>> OutputFolder::Open(const std::string& path, NameTemplate names) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make the folder ", path));
  const std::string manifest_path = path + "/manifest.jsonl";
  const int fd = open(manifest_path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError("write", manifest_path);
  absl::StatusOr<Manifest> manifest;
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    manifest = absl::FailedPreconditionError(absl::StrCat("another turbofleet is writing to ", path));
  } else {
    const absl::StatusOr<std::string> text = ReadFile(manifest_path, kManifestBytesMax);
    manifest = text.ok() ? ParseManifest(*text) : text.status();
    // A crash cut the last line short; its picture is made again.
    if (manifest.ok() && manifest->bytes_whole < text->size() &&
        ftruncate(fd, static_cast<off_t>(manifest->bytes_whole)) != 0) {
      manifest = SystemError("repair", manifest_path);
    }
  }
  if (!manifest.ok()) {
    close(fd);
    return Annotate(manifest.status(), manifest_path);
  }
  return std::unique_ptr<OutputFolder>(new OutputFolder(path, std::move(names), fd, *std::move(manifest)));
}

OutputFolder::OutputFolder(std::string path, NameTemplate names, int manifest_fd, Manifest manifest)
    : path_(std::move(path)),
      names_(std::move(names)),
      manifest_fd_(manifest_fd),
      earlier_(std::move(manifest.entries)) {
  for (size_t i = 0; i < earlier_.size(); ++i) {
    earlier_by_request_.emplace(earlier_[i].request, i);
    indexes_.insert(earlier_[i].index);
  }
  next_index_ = indexes_.empty() ? 0 : *indexes_.rbegin() + 1;
}

OutputFolder::~OutputFolder() { close(manifest_fd_); }

std::string OutputFolder::manifest_path() const { return path_ + "/manifest.jsonl"; }
std::string OutputFolder::errors_path() const { return path_ + "/errors.jsonl"; }
int64_t OutputFolder::next_index() const { return next_index_; }

std::string OutputFolder::FilePath(const ManifestEntry& entry) const { return path_ + "/" + entry.path; }

std::string OutputFolder::RelativePath(const std::string& path) const {
  std::error_code error;
  const std::filesystem::path relative = std::filesystem::proximate(path, path_, error);
  return error ? path : relative.string();
}

absl::Status OutputFolder::Sync() {
  // One call for any number of files, where fsync() would take one for each of them and their names.
  if (syncfs(manifest_fd_) != 0) return SystemError("write", path_);
  return absl::OkStatus();
}

const ManifestEntry* OutputFolder::TakeEarlier(const std::string& request) {
  while (true) {
    const auto found = earlier_by_request_.find(request);
    if (found == earlier_by_request_.end()) return nullptr;
    const ManifestEntry& entry = earlier_[found->second];
    earlier_by_request_.erase(found);
    struct stat file;
    if (stat(FilePath(entry).c_str(), &file) == 0 && S_ISREG(file.st_mode)) return &entry;
  }
}

int64_t OutputFolder::TakeIndex(int64_t wanted) {
  const int64_t index = indexes_.insert(wanted).second ? wanted : next_index_;
  indexes_.insert(index);
  next_index_ = std::max(next_index_, index + 1);
  return index;
}

absl::StatusOr<std::string> OutputFolder::Publish(const std::string& stem, const std::string& extension,
                                                  const std::string& content) {
  int64_t serial = 0;
  {
    absl::MutexLock lock(&mu_);
    serial = ++files_written_;
  }
  const std::string temporary = absl::StrCat(path_, "/.turbofleet-", getpid(), "-", serial, ".part");
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError("write", temporary);
  absl::Status status = WriteAll(fd, content, temporary);
  if (close(fd) != 0 && status.ok()) status = SystemError("write", temporary);
  std::string name;
  for (int i = 1; status.ok() && i <= kSameNamesMax; ++i) {
    name = absl::StrCat(stem, i == 1 ? "" : absl::StrCat("-", i), ".", extension);
    const std::string target = path_ + "/" + name;
    // Unlike a rename, a link never replaces what is there.
    if (link(temporary.c_str(), target.c_str()) == 0) break;
    if (errno != EEXIST) {
      status = SystemError("write", target);
    } else if (const auto other = ReadFile(target, content.size()); other.ok() && *other == content) {
      break;  // This very picture, from a run that was killed before it wrote the line.
    } else if (i == kSameNamesMax) {
      status = absl::AlreadyExistsError(absl::StrCat("too many files are named like ", target));
    }
  }
  unlink(temporary.c_str());
  if (!status.ok()) return status;
  return name;
}

absl::Status OutputFolder::AddImage(const std::string& extension, const std::string& content, ManifestEntry* entry) {
  TURBOFLEET_ASSIGN_OR_RETURN(entry->path, Publish(names_.Format(*entry), extension, content));
  absl::MutexLock lock(&mu_);
  return AppendLine(manifest_fd_, ToJson(*entry), manifest_path());
}

absl::Status OutputFolder::AddError(const nlohmann::ordered_json& error) {
  absl::MutexLock lock(&mu_);
  const int fd = open(errors_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError("write", errors_path());
  const absl::Status status = AppendLine(fd, error, errors_path());
  close(fd);
  return status;
}

absl::Status OutputFolder::ClearErrors() {
  absl::MutexLock lock(&mu_);
  if (unlink(errors_path().c_str()) != 0 && errno != ENOENT) return SystemError("remove", errors_path());
  return absl::OkStatus();
}

}  // namespace turbofleet::cli
