#include "coordinator/dispatch/dispatcher.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/sha256.h"
#include "common/status.h"

namespace turbofleet {
namespace {

constexpr uint64_t kSeedsEnd = uint64_t{1} << 32;

uint64_t IdNumber(LeaseId id) { return static_cast<uint64_t>(id); }

absl::Status ShuttingDown(absl::Duration retry_after) {
  return WithRetryAfter(MakeError(absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "the coordinator is shutting down"),
                        retry_after);
}

// Hashing is slow enough to be done before a lock is taken.
std::string InputDigest(const JobRequest& request) {
  if (request.init_image.empty()) return "";
  return Sha256Hex(request.init_image.data(), request.init_image.size());
}

// How long the image had the worker's device.
absl::Duration DeviceTime(const Picture& picture) {
  const StageDurations& stages = picture.stages;
  return stages.text + stages.vae_encode + stages.unet + stages.vae_decode;
}

// What a client is told of an image whose tries are used up.
RenderError ErrorOf(const FailedImage& failed) {
  return {.code = absl::StatusCode::kInternal,
          .reason = ReasonName(failed.reason),
          .message = absl::StrCat("gave up after ", failed.attempts, " tries; the last one ended because ",
                                  failed.reason == RetryReason::kWorkerLost    ? "its worker was lost"
                                  : failed.reason == RetryReason::kWorkerStuck ? "its worker was stuck"
                                  : failed.reason == RetryReason::kPoison      ? "its worker died of it once more"
                                                                               : "its worker gave it back")};
}

}  // namespace

const char* ReasonName(RetryReason reason) {
  switch (reason) {
    case RetryReason::kWorkerLost:
      return "WORKER_LOST";
    case RetryReason::kWorkerStuck:
      return "WORKER_STUCK";
    case RetryReason::kReleased:
      return "WORKER_RELEASED";
    case RetryReason::kRenderFailed:
      return "RENDER_FAILED";
    case RetryReason::kDeviceFailed:
      return "DEVICE_FAILED";
    case RetryReason::kPoison:
      return "IMAGE_POISONOUS";
  }
  return "RENDER_FAILED";
}

Dispatcher::Dispatcher(const Options& options, Environment environment)
    : options_(options),
      environment_(std::move(environment)),
      start_time_(environment_.clock->Now()),
      scheduler_(options.scheduler),
      inputs_(options.input_bytes_max) {
  if (environment_.store == nullptr) return;
  absl::MutexLock lock(&mu_);
  durable_ = std::make_unique<DurableJobs>(options.durable, DurableEnvironment());
}

Dispatcher::~Dispatcher() = default;

// ---------------------------------------------------------------------------------------------------------------------
// Clients

absl::StatusOr<const WorkerIdentity*> Dispatcher::ResolveModel(const std::string& model) const {
  std::map<std::string, const WorkerIdentity*> matches;  // By digest.
  bool any_ready = false;
  // By worker name, so that the same workers give the same defaults whatever the order in which they came.
  for (const auto& [name, id] : sessions_by_worker_) {
    const Session& session = sessions_.find(id)->second;
    if (session.draining) continue;
    any_ready = true;
    const WorkerIdentity& identity = session.identity;
    if (model.empty() || model == identity.model_digest || model == identity.model_name) {
      matches.try_emplace(identity.model_digest, &identity);
    }
  }
  if (!any_ready) {
    return WithRetryAfter(MakeError(absl::StatusCode::kUnavailable, "NO_WORKERS", "no worker is connected and ready"),
                          options_.retry_after);
  }
  if (matches.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_NOT_SERVED",
                     "model: no connected worker serves it; ListWorkers tells what is served");
  }
  if (matches.size() > 1) {
    return MakeError(absl::StatusCode::kInvalidArgument, "MODEL_AMBIGUOUS",
                     absl::StrCat("model: ", matches.size(), " models are served that fit; give the digest of one"));
  }
  return matches.begin()->second;
}

absl::Status Dispatcher::CheckServed(const JobSpec& spec) const {
  bool any_size = false;
  int32_t size_max = 0;
  for (const auto& [id, session] : sessions_) {
    const WorkerIdentity& identity = session.identity;
    if (session.draining || identity.model_digest != spec.model_digest) continue;
    size_max = std::max(size_max, identity.size_max);
    if (std::max(spec.shape.width, spec.shape.height) > identity.size_max) continue;
    any_size = true;
    if (!spec.shape.tiny_vae || identity.has_tiny_vae) return absl::OkStatus();
  }
  if (!any_size) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "SIZE_NOT_SERVED",
                     absl::StrCat("width, height: the workers that serve the model go up to ", size_max, " pixels"));
  }
  return MakeError(absl::StatusCode::kFailedPrecondition, "VAE_NOT_SERVED",
                   "vae: no worker that serves the model and the size has the tiny VAE");
}

absl::StatusOr<std::shared_ptr<JobSpec>> Dispatcher::Resolve(JobRequest* request) const {
  TURBOFLEET_ASSIGN_OR_RETURN(const WorkerIdentity* model, ResolveModel(request->model));
  auto spec = std::make_shared<JobSpec>();
  spec->name = absl::StrCat("jobs/", environment_.new_name());
  spec->tenant = request->tenant;
  spec->job_class = request->job_class;
  spec->prompt_count = static_cast<int32_t>(request->prompts.size());
  spec->prompts = std::move(request->prompts);
  spec->negative_prompt = std::move(request->negative_prompt);
  spec->guidance_scale = request->guidance_scale;
  spec->seeds_per_prompt = request->seeds_per_prompt;
  spec->seeds = std::move(request->seeds);
  if (spec->seeds.empty()) {
    const uint64_t firsts = kSeedsEnd - static_cast<uint64_t>(request->seeds_per_prompt) + 1;
    spec->first_seed = request->first_seed.has_value() ? *request->first_seed
                                                       : static_cast<uint32_t>(environment_.new_seed() % firsts);
  }
  spec->shape = {.width = request->width > 0 ? request->width : model->default_width,
                 .height = request->height > 0 ? request->height : model->default_height,
                 .steps = request->steps,
                 .first_step = request->first_step,
                 .image_to_image = !request->init_image.empty(),
                 .tiny_vae = request->tiny_vae};
  spec->strength = request->strength;
  spec->format = request->format;
  spec->quality = request->quality;
  spec->embed_metadata = request->embed_metadata;
  spec->model_digest = model->model_digest;
  spec->model_name = model->model_name;
  TURBOFLEET_RETURN_IF_ERROR(CheckServed(*spec));
  return spec;
}

absl::Status Dispatcher::QueueFull(const std::string& limit, const std::string& description) const {
  const absl::Status status = MakeError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL",
                                        absl::StrCat(limit, ": ", description), {{"limit", limit}});
  return WithRetryAfter(WithQuotaFailure(status, limit, description), options_.retry_after);
}

absl::Status Dispatcher::Admit(JobId id, const std::shared_ptr<const JobSpec>& spec, std::string init_image,
                               absl::Time now) {
  // The scheduler forgets a job with its last image, the dispatcher when its client has that.
  if (static_cast<int64_t>(jobs_.size()) >= options_.scheduler.jobs_max) {
    return QueueFull("jobs_max", absl::StrCat("no more than ", options_.scheduler.jobs_max, " calls at a time"));
  }
  if (!init_image.empty()) {
    const absl::Status held = inputs_.Hold(spec->init_image_sha256, std::move(init_image));
    if (!held.ok()) return QueueFull("input_bytes_max", std::string(held.message()));
  }
  int64_t prompt_bytes = static_cast<int64_t>(spec->negative_prompt.size());
  for (const std::string& prompt : spec->prompts) prompt_bytes += static_cast<int64_t>(prompt.size());
  const std::optional<Refusal> refusal = scheduler_.Submit({.id = id,
                                                            .tenant = spec->tenant,
                                                            .job_class = spec->job_class,
                                                            .model_digest = spec->model_digest,
                                                            .shape = spec->shape,
                                                            .image_count = spec->ImageCount(),
                                                            .prompt_bytes = prompt_bytes},
                                                           now);
  if (refusal.has_value()) {
    if (!spec->init_image_sha256.empty()) inputs_.Release(spec->init_image_sha256);
    const auto& limit = std::get<LimitReached>(*refusal);  // Calls have no deadline that the core knows of.
    return QueueFull(limit.name, absl::StrCat("no more than ", limit.max, " at a time"));
  }
  return absl::OkStatus();
}

absl::StatusOr<JobId> Dispatcher::StartJob(JobRequest request, std::shared_ptr<JobWatch> watch) {
  const int64_t image_count = static_cast<int64_t>(request.prompts.size()) * request.seeds_per_prompt;
  if (image_count > options_.images_per_job_max) {
    return InvalidField(request.seeds.empty() ? "count" : "seeds",
                        absl::StrCat("makes ", image_count, " images with ", request.prompts.size(),
                                     " prompts; a request may have ", options_.images_per_job_max));
  }
  const std::string sha256 = InputDigest(request);
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  if (draining_) return ShuttingDown(options_.retry_after);
  TURBOFLEET_ASSIGN_OR_RETURN(const std::shared_ptr<JobSpec> spec, Resolve(&request));
  spec->init_image_sha256 = sha256;
  const absl::Time now = environment_.clock->Now();
  const JobId id{last_job_ + 1};
  TURBOFLEET_RETURN_IF_ERROR(Admit(id, spec, std::move(request.init_image), now));
  last_job_ = static_cast<uint64_t>(id);
  call_images_left_ += spec->ImageCount();
  jobs_[id] = {.spec = spec,
               .watch = watch,
               .started = now,
               .ended = std::vector<bool>(spec->ImageCount()),
               .images_left = spec->ImageCount(),
               .images_failed = 0,
               .images_unsent = 0,
               .bytes_unsent = 0,
               .last_sent = now,
               .paused = false};
  environment_.logger->Info("job started", {{"job", spec->name},
                                            {"images", spec->ImageCount()},
                                            {"prompt", PromptFingerprint(spec->prompts.front())},
                                            {"model", spec->model_digest}});
  outbox.To(watch).PostAccepted(id, spec);
  Assign(now, outbox);
  return id;
}

void Dispatcher::ImageSent(JobId id, int64_t bytes) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Job& job = found->second;
  const absl::Time now = environment_.clock->Now();
  --job.images_unsent;
  job.bytes_unsent -= bytes;
  bytes_unsent_ -= bytes;
  job.last_sent = now;
  const bool was_paused = job.paused;
  UpdatePause(id, job);
  if (was_paused && !job.paused) Assign(now, outbox);
}

void Dispatcher::CloseJob(JobId id) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  const Job& job = found->second;
  const absl::Time now = environment_.clock->Now();
  bytes_unsent_ -= job.bytes_unsent;
  call_images_left_ -= job.images_left;
  if (job.images_left > 0) environment_.observer->OnImagesCancelled(*job.spec, job.images_left);
  environment_.logger->Info("job ended", {{"job", job.spec->name},
                                          {"images", job.spec->ImageCount()},
                                          {"failed", job.images_failed},
                                          {"cancelled", job.images_left},
                                          {"seconds", absl::ToDoubleSeconds(now - job.started)}});
  if (!job.spec->init_image_sha256.empty()) inputs_.Release(job.spec->init_image_sha256);
  const Effects effects = scheduler_.Cancel(id);
  jobs_.erase(found);
  Carry(effects, outbox);
  Assign(now, outbox);
}

// ---------------------------------------------------------------------------------------------------------------------
// Durable jobs

DurableJobs::Environment Dispatcher::DurableEnvironment() {
  return {
      .clock = environment_.clock,
      .logger = environment_.logger,
      .observer = environment_.observer,
      .scheduler = &scheduler_,
      .store = environment_.store,
      .spool = environment_.spool,
      .shared = environment_.store_shared,
      .next_id = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return JobId{++last_job_}; },
      .is_served = [this](const JobSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return CheckServed(spec).ok(); },
      .hold_input = [this](const std::string& sha256, std::string content)
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return inputs_.Hold(sha256, std::move(content)); },
      .release_input = [this](const std::string& sha256)
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { inputs_.Release(sha256); },
      .enter = [this](absl::FunctionRef<void(Outbox&)> call) { Enter(call); },
      .on_fenced = environment_.on_fenced};
}

void Dispatcher::Enter(absl::FunctionRef<void(Outbox& outbox)> call) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  call(outbox);
  Carry(durable_->TakeEffects(), outbox);
  Assign(environment_.clock->Now(), outbox);
}

absl::StatusOr<std::shared_ptr<JobSpec>> Dispatcher::ResolveJob(JobRequest request) const {
  const std::string sha256 = InputDigest(request);
  absl::MutexLock lock(&mu_);
  if (draining_) return ShuttingDown(options_.retry_after);
  TURBOFLEET_ASSIGN_OR_RETURN(std::shared_ptr<JobSpec> spec, Resolve(&request));
  spec->init_image_sha256 = sha256;
  return spec;
}

absl::Status Dispatcher::CheckQuota(const std::string& tenant, int64_t images) const {
  absl::MutexLock lock(&mu_);
  if (draining_) return ShuttingDown(options_.retry_after);
  return WithRetryAfter(durable_->CheckQuota(tenant, images), options_.retry_after);
}

void Dispatcher::LoadJobs(const std::vector<JobRecord>& running, const std::map<std::string, TenantUsage>& usage) {
  Enter([&](Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (const JobRecord& record : running) durable_->Start(record, outbox);
    durable_->SetUsage(usage);
  });
}

void Dispatcher::JobStarted(const JobRecord& record) {
  Enter([&](Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { durable_->Start(record, outbox); });
}

void Dispatcher::JobEnded(const JobRecord& record) {
  Enter([&](Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { durable_->Ended(record, outbox); });
}

void Dispatcher::JobReleased(const JobRecord& record, int64_t bytes) {
  Enter([&](Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { durable_->Released(record, bytes, outbox); });
}

void Dispatcher::JobDeleted(const JobRecord& record) {
  Enter([&](Outbox& outbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { durable_->Deleted(record, outbox); });
}

bool Dispatcher::WaitsForRelease(const std::string& id) const {
  absl::MutexLock lock(&mu_);
  return durable_->WaitsForRelease(id);
}

void Dispatcher::Follow(const std::string& id, const std::shared_ptr<JobFollower>& follower) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  if (shut_down_) {
    outbox.To(follower).PostEnd(ShuttingDown(options_.retry_after));
  } else {
    durable_->Follow(id, follower);
  }
}

void Dispatcher::Unfollow(const std::string& id, const std::shared_ptr<JobFollower>& follower) {
  absl::MutexLock lock(&mu_);
  durable_->Unfollow(id, follower);
}

// ---------------------------------------------------------------------------------------------------------------------
// Images

void Dispatcher::UpdatePause(JobId id, Job& job) {
  const bool total_reached = bytes_unsent_ >= options_.bytes_unsent_total_max && job.bytes_unsent > 0;
  // Half of the way back, so that a client at the limit does not switch its job on and off with every image.
  const int64_t part = job.paused ? 2 : 1;
  const bool behind = job.images_unsent * part >= options_.images_unsent_max ||
                      job.bytes_unsent * part >= options_.bytes_unsent_max || total_reached;
  job.paused = behind && job.images_unsent > 0;
  scheduler_.SetPaused(id, job.paused);
}

void Dispatcher::CountEnded(JobId id, Job& job, int64_t bytes, Outbox& outbox) {
  if (job.images_unsent == 0) job.last_sent = environment_.clock->Now();
  ++job.images_unsent;
  job.bytes_unsent += bytes;
  bytes_unsent_ += bytes;
  --job.images_left;
  --call_images_left_;
  if (job.images_left == 0) {
    outbox.To(job.watch).PostEnd(absl::OkStatus());
  } else {
    UpdatePause(id, job);
  }
}

bool Dispatcher::EndsNow(ImageId image) {
  if (IsDurable(image.job)) return durable_->EndsNow(image);
  const auto job = jobs_.find(image.job);
  if (job == jobs_.end() || job->second.ended[image.index]) return false;
  job->second.ended[image.index] = true;
  return true;
}

void Dispatcher::FinishImage(ImageId image, SessionId session_id, Delivery delivery, Picture picture, Outbox& outbox) {
  Session& session = sessions_.find(session_id)->second;
  session.rate.Add(environment_.clock->Now());
  ++session.images_completed;
  ++images_completed_;
  const auto bytes = static_cast<int64_t>(picture.content.size());
  FinishedImage finished = {.index = image.index,
                            .picture = std::move(picture),
                            .worker = session.identity.name,
                            .attempt = delivery.attempt,
                            .queue_wait = delivery.queue_wait};
  if (IsDurable(image.job)) {
    durable_->Finish(image, std::move(finished));
    return;
  }
  Job& job = jobs_.find(image.job)->second;
  environment_.observer->OnImageFinished(*job.spec, finished);
  outbox.To(job.watch).PostImage(std::move(finished));
  CountEnded(image.job, job, bytes, outbox);
}

void Dispatcher::FailImage(ImageId image, int32_t attempts, RenderError error, Outbox& outbox) {
  if (!EndsNow(image)) return;
  ++images_failed_;
  const JobSpec& spec = *SpecOf(image.job);
  environment_.logger->Warning("image failed", {{"job", spec.name},
                                                {"index", image.index},
                                                {"attempts", attempts},
                                                {"reason", error.reason},
                                                {"message", error.message}});
  UnfinishedImage failed = {.index = image.index, .error = std::move(error), .attempts = attempts};
  if (IsDurable(image.job)) {
    durable_->Fail(image, std::move(failed));
    return;
  }
  Job& job = jobs_.find(image.job)->second;
  ++job.images_failed;
  environment_.observer->OnImageFailed(*job.spec, failed);
  outbox.To(job.watch).PostFailure(std::move(failed));
  CountEnded(image.job, job, /*bytes=*/0, outbox);
}

bool Dispatcher::Deliver(const std::string& token, LeaseId lease, int32_t slot, RenderOutcome outcome) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  const auto session_id = sessions_by_token_.find(token);
  const RenderError* error = std::get_if<RenderError>(&outcome);
  const Outcome kind = error == nullptr                                    ? Outcome::kRendered
                       : error->code == absl::StatusCode::kInvalidArgument ? Outcome::kRefused
                                                                           : Outcome::kFailed;
  const absl::Time now = environment_.clock->Now();
  Delivery delivery;
  if (session_id != sessions_by_token_.end()) {
    const absl::Duration device_time = error == nullptr ? DeviceTime(std::get<Picture>(outcome)) : absl::ZeroDuration();
    delivery = scheduler_.Deliver(session_id->second, lease, slot, kind, device_time, now);
    Carry(delivery.effects, outbox);
  }
  if (delivery.verdict == Delivery::Verdict::kLate) {
    environment_.observer->OnLateDelivery();
    return false;
  }
  if (error != nullptr) {
    ++sessions_.find(session_id->second)->second.images_failed;
    environment_.logger->Warning("render failed", {{"worker", sessions_.find(session_id->second)->second.identity.name},
                                                   {"lease", IdNumber(lease)},
                                                   {"slot", slot},
                                                   {"reason", error->reason},
                                                   {"message", error->message}});
  }
  if (delivery.verdict == Delivery::Verdict::kRetried) {
    environment_.observer->OnRetry(RetryReason::kRenderFailed, 1);
  } else if (error != nullptr) {
    FailImage(delivery.image, delivery.attempt, *error, outbox);
  } else if (EndsNow(delivery.image)) {
    FinishImage(delivery.image, session_id->second, delivery, std::get<Picture>(std::move(outcome)), outbox);
  }
  Assign(now, outbox);
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Workers

absl::StatusOr<SessionId> Dispatcher::OpenSession(const WorkerIdentity& identity, std::shared_ptr<WorkerSession> sink,
                                                  const std::vector<HeldImage>& held) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  if (shut_down_) return ShuttingDown(options_.retry_after);
  const auto older = sessions_by_worker_.find(identity.name);
  if (older != sessions_by_worker_.end()) {
    EndSessionLocked(older->second,
                     MakeError(absl::StatusCode::kAlreadyExists, "SESSION_REPLACED",
                               "session: a newer one of the same worker took over"),
                     outbox);
  }
  const SessionId id{++last_session_};
  const absl::Time now = environment_.clock->Now();
  const std::string token = environment_.new_name();
  sessions_.emplace(id, Session{.identity = identity,
                                .token = token,
                                .sink = sink,
                                .connect_time = now,
                                .images_completed = 0,
                                .images_failed = 0,
                                .rate = RateMeter(now),
                                .draining = false});
  sessions_by_token_[token] = id;
  sessions_by_worker_[identity.name] = id;
  scheduler_.OpenSession(id,
                         {.worker = identity.name,
                          .model_digest = identity.model_digest,
                          .size_max = identity.size_max,
                          .batch_images_max = identity.batch_images_max,
                          .has_tiny_vae = identity.has_tiny_vae},
                         now);
  outbox.To(sink).PostWelcome({.token = token,
                               .report_interval = options_.report_interval,
                               .session_timeout = options_.scheduler.session_timeout});
  environment_.logger->Info("worker connected", {{"worker", identity.name},
                                                 {"device", identity.device},
                                                 {"model", identity.model_digest},
                                                 {"batch_images_max", identity.batch_images_max},
                                                 {"held", static_cast<int64_t>(held.size())}});
  Adopt(id, held, outbox);
  return id;
}

void Dispatcher::Adopt(SessionId id, const std::vector<HeldImage>& held, Outbox& outbox) {
  if (durable_ == nullptr) return;
  const std::string& model_digest = sessions_.find(id)->second.identity.model_digest;
  // A batch has images of one shape.
  std::map<BatchShape, std::vector<ImageId>> by_shape;
  for (const HeldImage& image : held) {
    const std::optional<JobId> job = durable_->IdOf(image.job);
    if (!job.has_value()) continue;
    const JobSpec& spec = *durable_->SpecOf(*job);
    if (spec.model_digest == model_digest) by_shape[spec.shape].push_back({*job, image.index});
  }
  for (const auto& [shape, images] : by_shape) {
    Adoption adoption = scheduler_.Adopt(id, images, environment_.clock->Now());
    if (adoption.lease == LeaseId{}) continue;
    PostBatch({.id = adoption.lease, .session = id, .shape = shape, .images = std::move(adoption.images)},
              /*adopted=*/true, outbox);
  }
}

absl::Status Dispatcher::Report(SessionId id, const WorkerReport& report) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  const absl::Time now = environment_.clock->Now();
  Effects effects;
  const absl::Status status = scheduler_.Report(id, report, now, &effects);
  if (absl::IsNotFound(status)) {
    return MakeError(absl::StatusCode::kUnavailable, "SESSION_ENDED", "session: has ended; dial again");
  }
  if (!status.ok()) return MakeError(status.code(), "MALFORMED_MESSAGE", std::string(status.message()));
  Session& session = sessions_.find(id)->second;
  if (report.draining && !session.draining) {
    environment_.logger->Info("worker drains", {{"worker", session.identity.name}});
  }
  session.draining = report.draining;
  Carry(effects, outbox);
  Assign(now, outbox);
  return absl::OkStatus();
}

void Dispatcher::EndSession(SessionId id, const absl::Status& status) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  EndSessionLocked(id, status, outbox);
  Assign(environment_.clock->Now(), outbox);
}

void Dispatcher::EndSession(const std::string& token, const absl::Status& status) {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  const auto found = sessions_by_token_.find(token);
  if (found == sessions_by_token_.end()) return;
  EndSessionLocked(found->second, status, outbox);
  Assign(environment_.clock->Now(), outbox);
}

void Dispatcher::EndSessionLocked(SessionId id, const absl::Status& status, Outbox& outbox) {
  if (!sessions_.contains(id)) return;
  const Effects effects = scheduler_.EndSession(id, environment_.clock->Now());
  CloseSession(id, status, outbox);
  Carry(effects, outbox);
}

void Dispatcher::CloseSession(SessionId id, const absl::Status& status, Outbox& outbox) {
  const auto found = sessions_.find(id);
  Session& session = found->second;
  environment_.logger->Info(
      "worker disconnected",
      {{"worker", session.identity.name}, {"images", session.images_completed}, {"status", status.ToString()}});
  outbox.To(session.sink).PostClose(status);
  sessions_by_token_.erase(session.token);
  const auto by_worker = sessions_by_worker_.find(session.identity.name);
  if (by_worker != sessions_by_worker_.end() && by_worker->second == id) sessions_by_worker_.erase(by_worker);
  sessions_.erase(found);
}

absl::StatusOr<std::shared_ptr<const std::string>> Dispatcher::FindInput(const std::string& sha256) const {
  absl::MutexLock lock(&mu_);
  std::shared_ptr<const std::string> content = inputs_.Find(sha256);
  if (content == nullptr) {
    return MakeError(absl::StatusCode::kNotFound, "INPUT_NOT_FOUND", "sha256: no running job uses it");
  }
  return content;
}

// ---------------------------------------------------------------------------------------------------------------------
// Decisions

void Dispatcher::Carry(const Effects& effects, Outbox& outbox) {
  for (const Requeue& requeue : effects.requeued) {
    environment_.observer->OnRetry(requeue.reason, requeue.images);
    environment_.logger->Warning("images returned",
                                 {{"reason", ReasonName(requeue.reason)}, {"images", requeue.images}});
  }
  for (const FailedImage& failed : effects.failed) FailImage(failed.image, failed.attempts, ErrorOf(failed), outbox);
  for (const Abandonment& abandonment : effects.abandoned) {
    const auto session = sessions_.find(abandonment.session);
    if (session != sessions_.end()) outbox.To(session->second.sink).PostAbandon(abandonment.lease, abandonment.slots);
  }
  for (const SessionId id : effects.stuck_sessions) {
    environment_.logger->Error("worker is stuck", {{"worker", sessions_.find(id)->second.identity.name}});
  }
  for (const SessionId id : effects.quarantined_sessions) {
    environment_.logger->Error("worker is in quarantine", {{"worker", sessions_.find(id)->second.identity.name}});
  }
  for (const SessionId id : effects.lost_sessions) {
    CloseSession(
        id, MakeError(absl::StatusCode::kUnavailable, "SESSION_TIMEOUT", "session: no report came in time; dial again"),
        outbox);
  }
}

std::shared_ptr<const JobSpec> Dispatcher::SpecOf(JobId id) const {
  return IsDurable(id) ? durable_->SpecOf(id) : jobs_.find(id)->second.spec;
}

ImageToRender Dispatcher::ToRender(ImageId image) const {
  if (IsDurable(image.job)) return durable_->ToRender(image);
  const std::shared_ptr<const JobSpec>& spec = jobs_.find(image.job)->second.spec;
  return {.spec = spec, .index = image.index, .prompt = spec->prompts[spec->PromptIndexOf(image.index)]};
}

void Dispatcher::PostBatch(const Lease& lease, bool adopted, Outbox& outbox) {
  BatchToRender batch = {.lease = lease.id, .shape = lease.shape, .images = {}, .adopted = adopted};
  for (const ImageId& image : lease.images) batch.images.push_back(ToRender(image));
  const Session& session = sessions_.find(lease.session)->second;
  environment_.observer->OnBatch(batch);
  environment_.logger->Debug(adopted ? "batch adopted" : "batch leased",
                             {{"worker", session.identity.name},
                              {"lease", IdNumber(lease.id)},
                              {"images", static_cast<int64_t>(batch.images.size())}});
  outbox.To(session.sink).PostBatch(batch);
}

void Dispatcher::Assign(absl::Time now, Outbox& outbox) {
  for (const Lease& lease : scheduler_.Assign(now)) PostBatch(lease, /*adopted=*/false, outbox);
}

void Dispatcher::BreakStalledClients(absl::Time now, Outbox& outbox) {
  for (auto& [id, job] : jobs_) {
    if (job.images_unsent == 0 || now - job.last_sent < options_.client_stall_timeout) continue;
    environment_.logger->Warning("client reads nothing: its call is cancelled", {{"job", job.spec->name}});
    outbox.To(job.watch).PostBreak();
    job.last_sent = now;
  }
}

void Dispatcher::Tick() {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  const absl::Time now = environment_.clock->Now();
  Carry(scheduler_.Expire(now), outbox);
  if (durable_ != nullptr) {
    durable_->Tick(now);
    Carry(durable_->TakeEffects(), outbox);
  }
  BreakStalledClients(now, outbox);
  Assign(now, outbox);
}

ClusterState Dispatcher::State() const {
  absl::MutexLock lock(&mu_);
  const absl::Time now = environment_.clock->Now();
  ClusterState state = {.start_time = start_time_,
                        .draining = draining_,
                        .load = scheduler_.Load(now),
                        .calls_open = static_cast<int64_t>(jobs_.size()),
                        .images_waiting = call_images_left_ - scheduler_.Load(now).images_leased,
                        .images_completed = images_completed_,
                        .images_failed = images_failed_,
                        .images_queued_max = options_.scheduler.images_queued_max,
                        .workers = {}};
  if (durable_ != nullptr) {
    state.jobs_running = durable_->running();
    state.images_waiting += durable_->images_waiting();
    state.bytes_retained = durable_->bytes_retained();
    state.bytes_uncommitted = durable_->bytes_uncommitted();
  }
  // An image that was made and is not in the store yet waits for nobody.
  state.images_waiting = std::max<int64_t>(state.images_waiting, 0);
  for (const auto& [id, job] : jobs_) state.calls_running += job.images_left > 0;
  for (const auto& [name, id] : sessions_by_worker_) {
    const Session& session = sessions_.find(id)->second;
    state.workers.push_back({.identity = session.identity,
                             .connect_time = session.connect_time,
                             .load = *scheduler_.LoadOf(id),
                             .images_completed = session.images_completed,
                             .images_failed = session.images_failed,
                             .images_per_second = session.rate.PerSecond(now)});
  }
  return state;
}

// ---------------------------------------------------------------------------------------------------------------------
// Shutdown

void Dispatcher::BeginDrain() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
  if (durable_ != nullptr) durable_->Drain();
}

bool Dispatcher::Idle() const {
  // With no call open, all that workers have is of durable jobs.
  return jobs_.empty() &&
         (durable_ == nullptr || (durable_->Drained() && scheduler_.Load(start_time_).images_leased == 0));
}

bool Dispatcher::Draining() const {
  absl::MutexLock lock(&mu_);
  return draining_;
}

bool Dispatcher::AwaitIdle(absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(this, &Dispatcher::Idle), timeout);
}

void Dispatcher::Shutdown() {
  Outbox outbox;
  absl::MutexLock lock(&mu_);
  draining_ = true;
  shut_down_ = true;
  for (const auto& [id, job] : jobs_) outbox.To(job.watch).PostEnd(ShuttingDown(options_.retry_after));
  if (durable_ != nullptr) {
    durable_->EndFollowers(ShuttingDown(options_.retry_after), outbox);
    durable_->UnclaimAll();
  }
  while (!sessions_.empty()) {
    EndSessionLocked(sessions_.begin()->first, ShuttingDown(options_.retry_after), outbox);
  }
}

}  // namespace turbofleet
