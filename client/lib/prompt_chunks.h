// The messages that create a job.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "turbofleet/v1/image_service.pb.h"

namespace turbofleet::client {

// The job first, then its prompts in messages of at most 1 MiB and 8,192 prompts. Thread-compatible.
class PromptChunks {
 public:
  // Both outlive it. `spec` has no prompts. REQUIRES: no prompt is larger than a message.
  PromptChunks(const v1::JobSpec& spec, const std::vector<std::string>& prompts) : spec_(spec), prompts_(prompts) {}

  // Fills in the next message. False: there is none. REQUIRES: `request` is empty.
  bool Next(v1::CreateJobRequest* request);

 private:
  const v1::JobSpec& spec_;
  const std::vector<std::string>& prompts_;
  bool spec_sent_ = false;
  size_t next_ = 0;
};

}  // namespace turbofleet::client
