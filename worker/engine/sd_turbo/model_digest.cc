#include "worker/engine/sd_turbo/model_digest.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/sha256.h"
#include "common/status.h"

namespace turbofleet::sd_turbo {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr size_t kDigestChars = 7 + 64;

absl::Status HashFile(const ModelFile& file, Sha256& hash) {
  std::ifstream stream(file.path, std::ios::binary | std::ios::ate);
  if (!stream) return absl::UnavailableError(absl::StrCat(file.path, ": cannot be read"));
  const auto size = static_cast<uint64_t>(stream.tellg());
  stream.seekg(0);
  std::string head = file.name;
  head.push_back('\0');
  head += std::to_string(size);
  head.push_back('\0');
  hash.Update(head.data(), head.size());
  std::string buffer(kBufferBytes, '\0');
  uint64_t left = size;
  while (left > 0) {
    const auto part = static_cast<std::streamsize>(std::min<uint64_t>(left, buffer.size()));
    if (!stream.read(buffer.data(), part)) return absl::UnavailableError(absl::StrCat(file.path, ": cannot be read"));
    hash.Update(buffer.data(), static_cast<size_t>(part));
    left -= static_cast<uint64_t>(part);
  }
  return absl::OkStatus();
}

// Everything by which a change of the files shows, and their total size.
std::optional<std::pair<std::string, uint64_t>> Fingerprint(const std::vector<ModelFile>& files) {
  std::string text = "turbofleet model digest 1\n";
  uint64_t bytes = 0;
  for (const ModelFile& file : files) {
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(file.path, error);
    struct stat info{};
    if (error || ::stat(real.c_str(), &info) != 0) return std::nullopt;
    bytes += static_cast<uint64_t>(info.st_size);
    absl::StrAppend(&text, file.name, "\n", real.string(), "\n", info.st_size, " ", info.st_mtim.tv_sec, ".",
                    info.st_mtim.tv_nsec, " ", info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec, "\n");
  }
  return std::make_pair(std::move(text), bytes);
}

bool IsDigest(const std::string& text) {
  return text.size() == kDigestChars && text.starts_with("sha256:") &&
         std::all_of(text.begin() + 7, text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::optional<std::string> ReadRemembered(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text;
  if (!stream || !std::getline(stream, text) || !IsDigest(text)) return std::nullopt;
  return text;
}

// Through a file of its own, so that workers that start together never see half of a digest.
void Remember(const std::filesystem::path& path, const std::string& digest) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  const std::filesystem::path part = absl::StrCat(path.string(), ".", ::getpid(), ".part");
  std::ofstream stream(part, std::ios::binary | std::ios::trunc);
  stream << digest << "\n";
  stream.close();
  if (stream) std::filesystem::rename(part, path, error);
  if (!stream || error) std::filesystem::remove(part, error);
}

}  // namespace

absl::StatusOr<std::string> ComputeModelDigest(const std::vector<ModelFile>& files) {
  Sha256 hash;
  for (const ModelFile& file : files) TURBOFLEET_RETURN_IF_ERROR(HashFile(file, hash));
  return absl::StrCat("sha256:", hash.HexDigest());
}

absl::StatusOr<std::string> CachedModelDigest(const std::vector<ModelFile>& files, const DigestCacheOptions& cache) {
  const auto before = Fingerprint(files);
  if (cache.folder.empty() || !before.has_value() || before->second < cache.bytes_min) return ComputeModelDigest(files);
  const std::filesystem::path path =
      std::filesystem::path(cache.folder) / "model_digests" / Sha256Hex(before->first.data(), before->first.size());
  if (auto digest = ReadRemembered(path); digest.has_value()) return *std::move(digest);
  TURBOFLEET_ASSIGN_OR_RETURN(std::string digest, ComputeModelDigest(files));
  // A file that changed while it was read must not be remembered under what it was before.
  if (Fingerprint(files) == before) Remember(path, digest);
  return digest;
}

std::string UserCacheFolder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/') {
    return absl::StrCat(cache, "/turbofleet");
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') {
    return absl::StrCat(home, "/.cache/turbofleet");
  }
  return "";
}

}  // namespace turbofleet::sd_turbo
