// Jobs and results for tests of stores, and how they look as text.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/store/job_store.h"

namespace turbofleet {

inline absl::Time At(int64_t seconds) { return absl::UnixEpoch() + absl::Seconds(1'700'000'000 + seconds); }

// 32 hex digits.
inline std::string SampleId(int number) {
  return absl::StrCat(absl::Hex(number, absl::kZeroPad16), "0123456789abcdef");
}
// 64 hex digits.
inline std::string SampleSha256(int number) { return absl::StrCat(SampleId(number), SampleId(number)); }

struct SampleJob {
  int number = 1;
  std::string tenant = "anna";
  std::string request_id{};
  int32_t seeds_per_prompt = 1;
  std::string init_image_sha256{};
  std::map<std::string, std::string> labels{};
  absl::Time create_time = At(0);
  absl::Time deadline = absl::InfiniteFuture();
};

// Every field of the spec has a value of its own.
JobRecord MakeRecord(const SampleJob& job);

std::vector<std::string> MakePrompts(int32_t count, const std::string& stem = "prompt");

// A running job with `prompts` prompts. Expects no error.
JobRecord SubmitSample(JobStore& store, const SampleJob& job, int32_t prompts = 1);

// Every field has a value of its own.
ImageResult MakePicture(int32_t index, const std::string& pack = "pack-1", int64_t length = 100);
ImageResult MakeFailure(int32_t index);

ShardResults PicturesOf(const std::string& job, int32_t shard, const std::vector<int32_t>& indexes,
                        const std::string& pack = "pack-1");

// A running job with `images` images, each committed as a row of its own but all at once. Expects no error.
void CommitOneByOne(JobStore& store, int number, int32_t images);

// For comparing what two stores answered.
std::string ToText(const JobRecord& record);
std::string ToText(const ImageResult& result);
std::string ToText(const NumberedResult& result);
std::string ToText(const ClaimedShard& shard);
std::string ToText(const CommitReceipt& receipt);
std::string ToText(const TenantUsage& usage);

}  // namespace turbofleet
