#include "worker/agent/input_cache.h"

#include <utility>

#include "common/images/resize.h"
#include "common/sha256.h"
#include "common/status.h"

namespace turbofleet {

InputCache::InputCache(const Options& options, InputFetch fetch, EncoderPool* pool)
    : options_(options), fetch_(std::move(fetch)), pool_(pool) {}

void InputCache::Get(const InputKey& key, InputReady ready) {
  std::shared_ptr<const RgbImage> found;
  {
    absl::MutexLock lock(&mu_);
    found = FindLocked(key);
    if (found == nullptr) {
      std::vector<InputReady>& waiting = waiting_[key];
      waiting.push_back(std::move(ready));
      if (waiting.size() > 1) return;
    }
  }
  if (found != nullptr) {
    ready(std::move(found));
    return;
  }
  fetch_(key.sha256, [self = shared_from_this(), key](absl::StatusOr<std::string> content) {
    if (!content.ok()) {
      self->Finish(key, Annotate(content.status(), "init_image: cannot be fetched"));
      return;
    }
    self->pool_->RunUnbounded([self, key, file = *std::move(content)] { self->Finish(key, self->Decode(key, file)); });
  });
}

std::shared_ptr<const RgbImage> InputCache::FindLocked(const InputKey& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  uses_.splice(uses_.begin(), uses_, found->second.use);
  return found->second.image;
}

absl::StatusOr<std::shared_ptr<const RgbImage>> InputCache::Decode(const InputKey& key,
                                                                   const std::string& content) const {
  if (Sha256Hex(content.data(), content.size()) != key.sha256) {
    return absl::DataLossError("init_image: the coordinator sent a file with another digest");
  }
  absl::StatusOr<RgbImage> image = DecodeImage(content, options_.limits);
  if (!image.ok()) return absl::InvalidArgumentError("init_image: " + std::string(image.status().message()));
  if (image->width == key.width && image->height == key.height) {
    return std::make_shared<const RgbImage>(*std::move(image));
  }
  return std::make_shared<const RgbImage>(ResizeLanczos(*image, key.width, key.height));
}

void InputCache::Finish(const InputKey& key, const absl::StatusOr<std::shared_ptr<const RgbImage>>& result) {
  std::vector<InputReady> waiting;
  {
    absl::MutexLock lock(&mu_);
    waiting.swap(waiting_[key]);
    waiting_.erase(key);
    const int64_t size = result.ok() ? static_cast<int64_t>((*result)->pixels.size()) : options_.bytes_max + 1;
    if (size <= options_.bytes_max) {
      uses_.push_front(key);
      entries_.emplace(key, Entry{.image = *result, .use = uses_.begin()});
      bytes_ += size;
    }
    while (bytes_ > options_.bytes_max) {
      const auto oldest = entries_.find(uses_.back());
      bytes_ -= static_cast<int64_t>(oldest->second.image->pixels.size());
      entries_.erase(oldest);
      uses_.pop_back();
    }
  }
  for (InputReady& ready : waiting) ready(result);
}

}  // namespace turbofleet
