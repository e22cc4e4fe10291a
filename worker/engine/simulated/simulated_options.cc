#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "worker/engine/simulated/simulated_engine.h"

namespace turbofleet {
namespace {

using Setter = std::function<absl::Status(const std::string& text)>;

absl::Status OutOfRange(const std::string& text, const std::string& range) {
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", range));
}

Setter DurationInto(absl::Duration* field) {
  return [field](const std::string& text) -> absl::Status {
    absl::Duration value;
    if (!absl::ParseDuration(text, &value) || value < absl::ZeroDuration() || value > absl::Hours(24)) {
      return OutOfRange(text, "a time from 0s to 24h, such as 5ms");
    }
    *field = value;
    return absl::OkStatus();
  };
}

Setter RateInto(double* field) {
  return [field](const std::string& text) -> absl::Status {
    double value = 0;
    if (!absl::SimpleAtod(text, &value) || !(value >= 0 && value <= 1)) return OutOfRange(text, "a number from 0 to 1");
    *field = value;
    return absl::OkStatus();
  };
}

template <typename T>
Setter NumberInto(T* field, int64_t min, int64_t max) {
  return [=](const std::string& text) -> absl::Status {
    int64_t value = 0;
    if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
      return OutOfRange(text, absl::StrCat("a whole number from ", min, " to ", max));
    }
    *field = static_cast<T>(value);
    return absl::OkStatus();
  };
}

Setter DigestInto(std::string* field) {
  return [field](const std::string& text) -> absl::Status {
    if (text.size() != 71 || text.compare(0, 7, "sha256:") != 0 ||
        text.find_first_not_of("0123456789abcdef", 7) != std::string::npos) {
      return OutOfRange(text, "\"sha256:\" and 64 lower-case hex digits");
    }
    *field = text;
    return absl::OkStatus();
  };
}

std::map<std::string, Setter> SettersOf(SimulatedEngineOptions* options) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  return {{"batch_time", DurationInto(&options->batch_time)},
          {"image_time", DurationInto(&options->image_time)},
          {"jitter", RateInto(&options->jitter)},
          {"failure_rate", RateInto(&options->failure_rate)},
          {"crash_rate", RateInto(&options->crash_rate)},
          {"fail_device_after", NumberInto(&options->fail_device_after, 0, kMax)},
          {"width", NumberInto(&options->width, 64, 1024)},
          {"height", NumberInto(&options->height, 64, 1024)},
          {"batch_images_max", NumberInto(&options->batch_images_max, 1, 1024)},
          {"seed", NumberInto(&options->seed, 0, std::numeric_limits<int64_t>::max())},
          {"model_digest", DigestInto(&options->model_digest)}};
}

}  // namespace

absl::StatusOr<SimulatedEngineOptions> ParseSimulatedEngineOptions(const std::string& text) {
  SimulatedEngineOptions options;
  const std::map<std::string, Setter> setters = SettersOf(&options);
  for (const absl::string_view item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(item, absl::MaxSplits('=', 1));
    const auto setter = setters.find(parts[0]);
    if (setter == setters.end()) {
      return absl::InvalidArgumentError(absl::StrCat("simulated engine: there is no field '", parts[0], "'"));
    }
    if (parts.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat("simulated engine: ", parts[0], " has no value"));
    }
    TURBOFLEET_RETURN_IF_ERROR(Annotate(setter->second(parts[1]), absl::StrCat("simulated engine: ", parts[0])));
  }
  if (options.width % 8 != 0 || options.height % 8 != 0) {
    return absl::InvalidArgumentError("simulated engine: width and height have to be multiples of 8");
  }
  return options;
}

}  // namespace turbofleet
