#include "client/lib/prompt_chunks.h"

namespace turbofleet::client {
namespace {

constexpr size_t kChunkPromptsMax = 8192;
constexpr size_t kChunkBytesMax = 1 << 20;
// At most what a prompt takes besides itself, and a message besides its prompts.
constexpr size_t kOverheadBytes = 16;

}  // namespace

bool PromptChunks::Next(v1::CreateJobRequest* request) {
  if (!spec_sent_) {
    spec_sent_ = true;
    *request->mutable_job() = spec_;
    return true;
  }
  size_t bytes = kOverheadBytes;
  for (size_t count = 0; next_ < prompts_.size() && count < kChunkPromptsMax; ++count, ++next_) {
    bytes += prompts_[next_].size() + kOverheadBytes;
    if (bytes > kChunkBytesMax) break;
    request->mutable_prompts()->add_prompts(prompts_[next_]);
  }
  return request->has_prompts();
}

}  // namespace turbofleet::client
