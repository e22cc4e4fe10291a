// DurableJobs: from a worker's delivery into the store.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/dispatch/durable_jobs.h"

namespace turbofleet {
namespace {

ImageResult ResultOf(const FinishedImage& image, PackedFile file) {
  return {.index = image.index,
          .outcome = PackedPicture{.file = std::move(file),
                                   .pixel_sha256 = image.picture.pixel_sha256,
                                   .worker = image.worker,
                                   .attempt = image.attempt,
                                   .batch_size = image.picture.batch_size,
                                   .prompt_tokens_cut = image.picture.prompt_tokens_cut,
                                   .queue_wait = image.queue_wait,
                                   .stages = image.picture.stages}};
}

}  // namespace

// What one transaction takes, on its way to the store's thread and back.
struct DurableJobs::CommitBatch {
  struct Group {
    std::string job;
    int32_t shard = 0;
    std::vector<size_t> members;                           // Positions in `images`.
    std::optional<absl::StatusOr<CommitReceipt>> receipt;  // Nothing: not tried, because the spool took no more.
  };
  std::vector<Uncommitted> images;
  std::vector<Group> groups;
  absl::Status spooled;
  std::vector<std::string> gone;  // Jobs that are not in the store any more.

  // In the store's thread. It may be run again, so it leaves the images as they are.
  void Run(JobStore& store, Spool& spool, absl::Time now) {
    spooled = absl::OkStatus();
    std::vector<ShardResults> shards;
    for (Group& group : groups) {
      group.receipt.reset();
      std::optional<ShardResults> results = SpoolGroup(group, spool);
      if (results.has_value()) shards.push_back(*std::move(results));
    }
    absl::StatusOr<std::vector<absl::StatusOr<CommitReceipt>>> receipts = store.CommitAll(shards, now);
    for (size_t i = 0; i < shards.size(); ++i) {
      groups[i].receipt = receipts.ok() ? std::move((*receipts)[i]) : receipts.status();
    }
    gone.clear();
    for (const Group& group : groups) {
      const bool ended = group.receipt.has_value() && absl::IsNotFound(group.receipt->status());
      if (ended && absl::IsNotFound(store.Find(group.job).status())) gone.push_back(group.job);
    }
  }

 private:
  // Nothing once the spool takes no more: groups before that one are committed, it and those after it are not.
  std::optional<ShardResults> SpoolGroup(const Group& group, Spool& spool) {
    ShardResults results = {.job = group.job, .shard = group.shard, .results = {}};
    for (const size_t member : group.members) {
      if (!spooled.ok()) return std::nullopt;
      results.results.push_back(Spooled(images[member], spool));
    }
    return spooled.ok() ? std::optional(std::move(results)) : std::nullopt;
  }

  ImageResult Spooled(const Uncommitted& image, Spool& spool) {
    if (const auto* failed = std::get_if<UnfinishedImage>(&image.outcome)) {
      return {.index = failed->index, .outcome = FailedResult{.error = failed->error, .attempts = failed->attempts}};
    }
    const auto& finished = std::get<FinishedImage>(image.outcome);
    absl::StatusOr<PackedFile> file = spool.Append(image.job, finished.index, finished.picture.content);
    spooled = file.status();
    return file.ok() ? ResultOf(finished, *std::move(file)) : ImageResult{};
  }
};

void DurableJobs::Finish(ImageId image, FinishedImage finished) {
  const Job& job = jobs_.find(image.job)->second;
  const auto bytes = static_cast<int64_t>(finished.picture.content.size());
  Keep({.image = image, .job = job.record.id, .outcome = std::move(finished), .spec = job.record.spec, .bytes = bytes});
}

void DurableJobs::Fail(ImageId image, UnfinishedImage failed) {
  const Job& job = jobs_.find(image.job)->second;
  Keep({.image = image, .job = job.record.id, .outcome = std::move(failed), .spec = job.record.spec, .bytes = 0});
}

void DurableJobs::Keep(Uncommitted image) {
  bytes_uncommitted_ += image.bytes;
  uncommitted_.push_back(std::move(image));
  UpdateUncommittedFull();
  if (!stalled_) MaybeCommit();
}

void DurableJobs::UpdateUncommittedFull() {
  // Half of the way back, so that it is not switched on and off with every image.
  const bool full = bytes_uncommitted_ * (uncommitted_full_ ? 2 : 1) >= options_.bytes_uncommitted_max;
  if (full == uncommitted_full_) return;
  uncommitted_full_ = full;
  UpdatePauses();
}

void DurableJobs::DropEnded() {
  std::erase_if(uncommitted_, [this](const Uncommitted& image) {
    if (by_id_.contains(image.job)) return false;
    bytes_uncommitted_ -= image.bytes;
    environment_.observer->OnLateDelivery();
    return true;
  });
  UpdateUncommittedFull();
}

void DurableJobs::MaybeCommit() {
  if (committing_) return;
  DropEnded();
  if (uncommitted_.empty()) {
    SetStalled(false, absl::OkStatus());
    return;
  }
  committing_ = true;
  const auto batch = std::make_shared<CommitBatch>();
  batch->images = std::move(uncommitted_);
  uncommitted_.clear();
  std::map<std::pair<std::string, int32_t>, size_t> groups;
  for (size_t i = 0; i < batch->images.size(); ++i) {
    const Uncommitted& image = batch->images[i];
    const int32_t shard = image.image.index / kShardImages;
    const auto [group, is_new] = groups.try_emplace({image.job, shard}, batch->groups.size());
    if (is_new) batch->groups.push_back({.job = image.job, .shard = shard, .members = {}, .receipt = {}});
    batch->groups[group->second].members.push_back(i);
  }
  environment_.store->Post(
      [batch, now = environment_.clock->Now()](JobStore& store, Spool& spool) { batch->Run(store, spool, now); },
      [this, batch](const absl::Status& status) {
        // Their pictures came into the spool after it was cleared of them.
        for (const std::string& job : batch->gone) environment_.spool->RemoveJob(job);
        environment_.enter([&](Outbox& outbox) { Committed(*batch, status, outbox); });
      });
}

void DurableJobs::Committed(CommitBatch& batch, const absl::Status& status, Outbox& outbox) {
  committing_ = false;
  absl::Status reason;
  std::vector<Uncommitted> again;
  for (CommitBatch::Group& group : batch.groups) {
    const bool tried = status.ok() && group.receipt.has_value();
    const absl::Status result = !status.ok() ? status : !tried ? batch.spooled : group.receipt->status();
    if (absl::IsAborted(result)) {
      environment_.on_fenced();
      return;
    }
    // Only an answer that is durable itself ends an image.
    const bool passes =
        !tried || absl::IsUnavailable(result) || absl::IsResourceExhausted(result) || absl::IsInternal(result);
    if (passes) reason = result;
    for (const size_t member : group.members) {
      Uncommitted& image = batch.images[member];
      bytes_uncommitted_ -= passes ? 0 : image.bytes;
      if (passes) again.push_back(std::move(image));
    }
    if (!passes) CommittedShard(batch, group.job, group.shard, group.members, *group.receipt, outbox);
  }
  SetStalled(!again.empty(), reason);
  // Those that wait longest go first.
  uncommitted_.insert(uncommitted_.begin(), std::make_move_iterator(again.begin()),
                      std::make_move_iterator(again.end()));
  UpdateUncommittedFull();
  if (!stalled_) MaybeCommit();
}

void DurableJobs::SetStalled(bool stalled, const absl::Status& reason) {
  if (stalled) commit_again_ = environment_.clock->Now() + options_.commit_retry_interval;
  if (stalled == stalled_) return;
  stalled_ = stalled;
  if (stalled) {
    environment_.logger->Error("results cannot be written: they wait", {{"error", reason.ToString()}});
  } else {
    environment_.logger->Info("results can be written again", {});
  }
}

void DurableJobs::CommittedShard(const CommitBatch& batch, const std::string& job_id, int32_t number,
                                 const std::vector<size_t>& members, const absl::StatusOr<CommitReceipt>& receipt,
                                 Outbox& outbox) {
  const auto id = by_id_.find(job_id);
  if (!receipt.ok()) {
    // The job has ended meanwhile, or the shard belongs to another coordinator now.
    for (size_t i = 0; i < members.size(); ++i) environment_.observer->OnLateDelivery();
    if (id == by_id_.end()) return;
    Job& job = jobs_.find(id->second)->second;
    environment_.logger->Warning(
        "results are not wanted",
        {{"job", job.record.spec->name}, {"shard", number}, {"error", receipt.status().ToString()}});
    doubtful_ = true;
    DropShard(id->second, job, number);
    return;
  }
  for (size_t i = 0; i < members.size(); ++i) {
    const Uncommitted& image = batch.images[members[i]];
    if (receipt->sequences[i] == 0) {
      environment_.observer->OnLateDelivery();
    } else if (const auto* finished = std::get_if<FinishedImage>(&image.outcome)) {
      environment_.observer->OnImageFinished(*image.spec, *finished);
    } else {
      environment_.observer->OnImageFailed(*image.spec, std::get<UnfinishedImage>(image.outcome));
    }
  }
  if (id == by_id_.end()) return;
  Job& job = jobs_.find(id->second)->second;
  // Images that ended under an earlier claim of the shard may be queued again.
  for (const size_t member : members) {
    const ImageId image = {.job = id->second, .index = batch.images[member].image.index};
    if (EndsNow(image)) Add(environment_.scheduler->DropImages(image.job, image.index, 1));
  }
  if (receipt->shard_done) DropShard(id->second, job, number);
  const JobId job_now = id->second;
  Update(job_now, receipt->job, outbox);
  if (const auto still = jobs_.find(job_now); still != jobs_.end()) {
    MaybeClaim(job_now, still->second);
    MaybeRest(job_now, still->second);
  }
}

}  // namespace turbofleet
