#include "tests/coordinator/store/store_samples.h"

#include <functional>
#include <memory>
#include <utility>
#include <variant>

#include "absl/strings/str_join.h"
#include "coordinator/store/codec.h"
#include "tests/support/status_matchers.h"

namespace turbofleet {

JobRecord MakeRecord(const SampleJob& job) {
  JobSpec spec;
  spec.tenant = job.tenant;
  spec.job_class = JobClass::kBulk;
  spec.labels = job.labels;
  spec.retention = absl::Hours(24) + absl::Nanoseconds(7);
  spec.negative_prompt = "blurred";
  spec.guidance_scale = 1.25;
  spec.seeds_per_prompt = job.seeds_per_prompt;
  spec.first_seed = 42;
  for (int32_t i = 0; i < job.seeds_per_prompt; ++i) spec.seeds.push_back(4'000'000'000U + static_cast<uint32_t>(i));
  spec.shape = {.width = 640,
                .height = 512,
                .steps = 3,
                .first_step = 1,
                .image_to_image = !job.init_image_sha256.empty(),
                .tiny_vae = true};
  spec.init_image_sha256 = job.init_image_sha256;
  spec.strength = job.init_image_sha256.empty() ? 0.0 : 0.75;
  spec.format = FileFormat::kWebp;
  spec.quality = 87;
  spec.embed_metadata = false;
  spec.model_digest = absl::StrCat("sha256:", SampleSha256(1));
  spec.model_name = "demo";
  spec.name = absl::StrCat("jobs/", SampleId(job.number));
  return {.id = SampleId(job.number),
          .request_id = job.request_id,
          .spec = std::make_shared<const JobSpec>(std::move(spec)),
          .create_time = job.create_time,
          .deadline = job.deadline};
}

std::vector<std::string> MakePrompts(int32_t count, const std::string& stem) {
  std::vector<std::string> prompts;
  for (int32_t i = 0; i < count; ++i) prompts.push_back(absl::StrCat(stem, " ", i));
  return prompts;
}

JobRecord SubmitSample(JobStore& store, const SampleJob& job, int32_t prompts) {
  const JobRecord draft = MakeRecord(job);
  TURBOFLEET_EXPECT_OK(store.BeginDraft(draft));
  TURBOFLEET_EXPECT_OK(store.AppendPrompts(draft.id, MakePrompts(prompts)));
  const absl::StatusOr<JobRecord> submitted = store.Submit(draft.id, "fingerprint");
  TURBOFLEET_EXPECT_OK(submitted);
  return submitted.ok() ? *submitted : draft;
}

ImageResult MakePicture(int32_t index, const std::string& pack, int64_t length) {
  PackedPicture picture;
  picture.file = {.pack = pack, .offset = 5'000'000'000 + index, .length = length, .crc32c = 4'000'000'000U};
  picture.pixel_sha256 = SampleSha256(index);
  picture.worker = "bert";
  picture.attempt = 2;
  picture.batch_size = 8;
  picture.prompt_tokens_cut = 3;
  picture.queue_wait = absl::Seconds(1) + absl::Nanoseconds(2);
  picture.stages = {.text = absl::Milliseconds(1),
                    .vae_encode = absl::Milliseconds(2),
                    .unet = absl::Milliseconds(3),
                    .vae_decode = absl::Milliseconds(4),
                    .file_encode = absl::Milliseconds(5),
                    .transport = absl::Milliseconds(6)};
  return {.index = index, .outcome = std::move(picture)};
}

ImageResult MakeFailure(int32_t index) {
  return {.index = index,
          .outcome = FailedResult{
              .error = {.code = absl::StatusCode::kInternal, .reason = "POISON", .message = "crashed"}, .attempts = 3}};
}

ShardResults PicturesOf(const std::string& job, int32_t shard, const std::vector<int32_t>& indexes,
                        const std::string& pack) {
  ShardResults results = {.job = job, .shard = shard, .results = {}};
  for (const int32_t index : indexes) results.results.push_back(MakePicture(index, pack));
  return results;
}

void CommitOneByOne(JobStore& store, int number, int32_t images) {
  SubmitSample(store, {.number = number}, images);
  TURBOFLEET_EXPECT_OK(store.Claim(SampleId(number), images));
  std::vector<ShardResults> all;
  for (int32_t i = 0; i < images; ++i) all.push_back(PicturesOf(SampleId(number), i / kShardImages, {i}));
  const auto receipts = store.CommitAll(all, At(1));
  TURBOFLEET_EXPECT_OK(receipts);
  if (receipts.ok()) {
    TURBOFLEET_EXPECT_OK(receipts->back());
  }
}

std::string ToText(const JobRecord& record) {
  const JobSpec& spec = *record.spec;
  JobSpec rest = spec;  // Bytes of a map are in no fixed order.
  rest.labels.clear();
  return absl::StrCat(record.id, " request=", record.request_id, " name=", spec.name, " tenant=", spec.tenant,
                      " state=", static_cast<int>(record.state), " created=", absl::FormatTime(record.create_time),
                      " deadline=", absl::FormatTime(record.deadline), " end=", absl::FormatTime(record.end_time),
                      " delete=", absl::FormatTime(record.delete_time), " completed=", record.images_completed,
                      " failed=", record.images_failed, " bytes=", record.bytes_retained,
                      " released=", record.released_sequence, " prompts=", spec.prompts.size(), "/", spec.prompt_count,
                      " labels=", absl::StrJoin(spec.labels, ",", absl::PairFormatter("=")),
                      " spec=", std::hash<std::string>()(EncodeJobSpec(rest)));
}

std::string ToText(const ImageResult& result) {
  const auto* picture = std::get_if<PackedPicture>(&result.outcome);
  return absl::StrCat(result.index, picture != nullptr ? absl::StrCat("@", picture->file.pack) : "!");
}

std::string ToText(const NumberedResult& result) { return absl::StrCat(result.sequence, ":", ToText(result.result)); }

std::string ToText(const ClaimedShard& shard) {
  return absl::StrCat("shard ", shard.number, " ", shard.first, "+", shard.count, " ended ",
                      absl::StrJoin(shard.ended, ","));
}

std::string ToText(const CommitReceipt& receipt) {
  return absl::StrCat("sequences ", absl::StrJoin(receipt.sequences, ","), receipt.shard_done ? " done " : " ",
                      ToText(receipt.job));
}

std::string ToText(const TenantUsage& usage) { return absl::StrCat(usage.jobs, "/", usage.bytes_retained); }

}  // namespace turbofleet
