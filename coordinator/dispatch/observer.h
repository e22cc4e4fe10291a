// What the dispatcher tells to those who count.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/dispatch/messages.h"

namespace turbofleet {

// Called with the dispatcher's lock held: quick, and no call back. The base class ignores everything.
class DispatchObserver {
 public:
  virtual ~DispatchObserver() = default;
  virtual void OnImageFinished(const JobSpec& /*spec*/, const FinishedImage& /*image*/) {}
  virtual void OnImageFailed(const JobSpec& /*spec*/, const UnfinishedImage& /*image*/) {}
  virtual void OnImagesCancelled(const JobSpec& /*spec*/, int64_t /*images*/) {}
  virtual void OnBatch(const BatchToRender& /*batch*/) {}
  virtual void OnRetry(RetryReason /*reason*/, int64_t /*images*/) {}
  // A picture came for a lease that does not hold the image (any more).
  virtual void OnLateDelivery() {}
};

// "WORKER_LOST" and so on: as docs/reference/errors.md lists them.
const char* ReasonName(RetryReason reason);

}  // namespace turbofleet
