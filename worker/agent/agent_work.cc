// Agent: batches in, results out.
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/errors.h"
#include "common/images/codec.h"
#include "common/text.h"
#include "worker/agent/agent.h"
#include "worker/agent/parameters_text.h"

namespace turbofleet {

namespace wire = internal::worker::v1;

namespace {

constexpr size_t kFailureMessageBytesMax = 1024;
constexpr size_t kFileBytesMax = 3'670'016;  // 3.5 MiB, as the public API promises.

void SetDuration(absl::Duration duration, google::protobuf::Duration* proto) {
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(duration);
  proto->set_seconds(nanoseconds / 1'000'000'000);
  proto->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
}

// What engines say in codes (engine.h), as reasons that programs read.
std::string FailureReason(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (!reason.empty()) return reason;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return "INVALID_FIELD";
    case absl::StatusCode::kResourceExhausted:
      return "DEVICE_OUT_OF_MEMORY";
    case absl::StatusCode::kUnavailable:
      return "DEVICE_FAILED";
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
      return "INPUT_UNAVAILABLE";
    default:
      return "RENDER_FAILED";
  }
}

std::shared_ptr<wire::DeliverImagesRequest> MakeMessage(const Work& work, size_t image) {
  auto message = std::make_shared<wire::DeliverImagesRequest>();
  message->set_session(work.session_name);
  message->set_lease(work.lease);
  message->set_slot(work.images[image]->slot);
  return message;
}

Delivery MakeFailure(const Work& work, size_t image, const absl::Status& status, absl::Time now) {
  auto message = MakeMessage(work, image);
  wire::DeliveredFailure& failure = *message->mutable_failure();
  failure.set_code(static_cast<int>(status.code()));
  failure.set_message(TruncateUtf8(ReplaceInvalidUtf8(std::string(status.message())), kFailureMessageBytesMax));
  failure.set_reason(FailureReason(status));
  const int64_t bytes = static_cast<int64_t>(message->ByteSizeLong());
  return {.message = std::move(message),
          .made = now,
          .bytes = bytes,
          .job = work.images[image]->job,
          .index = work.images[image]->index};
}

// Runs in the pool.
Delivery MakeFile(const Work& work, size_t image, const RenderedImage& rendered, size_t batch_images,
                  const EngineInfo& engine, const Clock& clock, AgentObserver* observer) {
  const absl::Time start = clock.Now();
  const WorkImage& wanted = *work.images[image];
  const EncodeOptions options = {.format = wanted.format,
                                 .quality = wanted.quality > 0 ? wanted.quality : EncodeOptions().quality,
                                 .parameters = wanted.embed_metadata ? ParametersText(wanted, work.shape, engine) : ""};
  absl::StatusOr<std::string> file = EncodeImage(rendered.image, options);
  if (file.ok() && file->size() > kFileBytesMax) {
    file = absl::InvalidArgumentError(
        absl::StrCat("format: the file has ", file->size(), " bytes, more than ", kFileBytesMax));
  }
  const std::string digest = PixelDigest(rendered.image);
  const absl::Time end = clock.Now();
  if (!file.ok()) return MakeFailure(work, image, file.status(), end);
  observer->ImageEncoded(end - start);
  auto message = MakeMessage(work, image);
  wire::DeliveredImage& delivered = *message->mutable_image();
  delivered.set_content(*std::move(file));
  delivered.set_pixel_sha256(digest);
  delivered.set_batch_size(static_cast<int>(batch_images));
  delivered.set_prompt_tokens_cut(rendered.prompt_tokens_cut);
  SetDuration(rendered.times.text, delivered.mutable_text());
  SetDuration(rendered.times.encode, delivered.mutable_vae_encode());
  SetDuration(rendered.times.unet, delivered.mutable_unet());
  SetDuration(rendered.times.decode, delivered.mutable_vae_decode());
  SetDuration(end - start, delivered.mutable_file_encode());
  const int64_t bytes = static_cast<int64_t>(delivered.content().size());
  return {.message = std::move(message), .made = end, .bytes = bytes, .job = wanted.job, .index = wanted.index};
}

}  // namespace

void Agent::TakeBatch(const wire::Batch& batch) {
  absl::StatusOr<std::shared_ptr<Work>> read = ReadBatch(batch, *engine_);
  if (!read.ok()) {
    BreakSession(read.status());
    return;
  }
  const std::shared_ptr<Work> work = *std::move(read);
  work->session = session_number_;
  work->session_name = session_name_;
  if (const absl::Status taken = ledger_->Take(work); !taken.ok()) {
    BreakSession(taken);
    return;
  }
  if (device_error_.has_value()) {
    // Given back: received, but not in the next report.
    for (int images = ledger_->Abandon(work->lease, {}); images > 0; --images) {
      observer_->ImageEnded(ImageOutcome::kAbandoned);
    }
    report_due_ = true;
    Report();
    return;
  }
  std::set<std::string> inputs;
  for (const auto& image : work->images) {
    if (!work->adopted && !image->init_image_sha256.empty()) inputs.insert(image->init_image_sha256);
  }
  waiting_[work->lease].inputs = static_cast<int>(inputs.size());
  for (const std::string& sha256 : inputs) {
    inputs_->Get(
        {.sha256 = sha256, .width = work->shape.width, .height = work->shape.height},
        [this, mailbox = mailbox_, work, sha256](absl::StatusOr<std::shared_ptr<const RgbImage>> result) {
          mailbox->Post([this, work, sha256, result = std::move(result)] { InputArrived(work, sha256, result); });
        });
  }
  if (inputs.empty()) Dispatch(work);
}

void Agent::InputArrived(const std::shared_ptr<Work>& work, const std::string& sha256,
                         const absl::StatusOr<std::shared_ptr<const RgbImage>>& result) {
  const auto waiting = waiting_.find(work->lease);
  if (work->session != session_number_ || waiting == waiting_.end()) return;
  if (!result.ok()) waiting->second.failed[sha256] = result.status();
  for (const auto& image : work->images) {
    if (result.ok() && image->init_image_sha256 == sha256) image->request.init_image = *result;
  }
  if (--waiting->second.inputs == 0) Dispatch(work);
}

void Agent::Dispatch(const std::shared_ptr<Work>& work) {
  const std::map<std::string, absl::Status> failed = std::move(waiting_[work->lease].failed);
  waiting_.erase(work->lease);
  DeviceJob job = {.work = work, .images = {}};
  for (size_t i = 0; i < work->images.size(); ++i) {
    const auto failure = failed.find(work->images[i]->init_image_sha256);
    if (failure != failed.end()) {
      Fail(work, i, failure->second);
    } else if (!DeliverKept(work, i)) {
      job.images.push_back(i);
    }
  }
  if (job.images.empty()) {
    BatchEnded(work, absl::OkStatus());
  } else {
    device_->Render(std::move(job));
  }
}

void Agent::Abandon(const wire::Abandon& abandon) {
  const std::vector<int> slots(abandon.slots().begin(), abandon.slots().end());
  for (int images = ledger_->Abandon(abandon.lease(), slots); images > 0; --images) {
    observer_->ImageEnded(ImageOutcome::kAbandoned);
  }
  deliveries_.DropUnsent([this](uint64_t lease, int slot) { return !ledger_->IsOpen(lease, slot); },
                         [this](const Delivery& delivery) { Forget(delivery); });
  BacklogChanged();
  MaybeClose();
}

void Agent::Rendered(const DeviceJob& job, size_t image, size_t batch_images, absl::StatusOr<RenderedImage> result) {
  const std::shared_ptr<Work>& work = job.work;
  if (work->images[image]->abandoned) return;
  if (!result.ok()) {
    absl::Status status = result.status();
    // The engine says that somebody gave the image up, and nobody did.
    if (absl::IsCancelled(status)) status = absl::AbortedError(status.message());
    mailbox_->Post([this, work, image, status] { Fail(work, image, status); });
    return;
  }
  observer_->ImageRendered(result->times);
  const int64_t bytes = static_cast<int64_t>(result->image.pixels.size());
  mailbox_->Post([this, bytes] {
    ++backlog_.encoding;
    backlog_.bytes += bytes;
    BacklogChanged();
  });
  // The agent may be gone when the job runs, so it touches only what it shares; `this` is for the mailbox, which is
  // closed then.
  auto rendered = std::make_shared<const RenderedImage>(*std::move(result));
  encoders_->Run([this, mailbox = mailbox_, work, image, batch_images, bytes, rendered = std::move(rendered),
                  engine = engine_, clock = clock_, observer = observer_] {
    Delivery delivery;
    if (!work->images[image]->abandoned) {
      delivery = MakeFile(*work, image, *rendered, batch_images, *engine, *clock, observer);
    }
    mailbox->Post([this, work, bytes, delivery = std::move(delivery)] {
      --backlog_.encoding;
      backlog_.bytes -= bytes;
      if (delivery.message != nullptr) Deliver(*work, delivery);
      BacklogChanged();
    });
  });
}

void Agent::BatchEnded(const std::shared_ptr<Work>& work, const absl::Status& status) {
  if (!status.ok()) DeviceFailed(status);
  if (work->session != session_number_ || ledger_ == nullptr) return;
  if (!work->adopted) ledger_->LeftDevice();
  BacklogChanged();
}

void Agent::DeviceFailed(const absl::Status& status) {
  if (phase_ == Phase::kEnding) return;
  device_error_ = status;
  draining_ = true;
  ready_ = false;
  logger_->Error(
      "device_failed",
      {{"worker", options_.worker}, {"device", engine_->device}, {"message", std::string(status.message())}});
  if (phase_ != Phase::kOpen) {
    EndDrained();
    return;
  }
  // What was not on the device yet goes back untried.
  std::set<uint64_t> leases;
  for (const DeviceJob& job : device_->TakeBack()) leases.insert(job.work->lease);
  for (const auto& [lease, unused] : waiting_) leases.insert(lease);
  waiting_.clear();
  for (const uint64_t lease : leases) {
    for (int images = ledger_->Abandon(lease, {}); images > 0; --images) {
      observer_->ImageEnded(ImageOutcome::kAbandoned);
    }
  }
  SetTimer(&failure_timer_, options_.failure_timeout, &Agent::EndDrained);
  report_due_ = true;
  Report();
  MaybeClose();
}

void Agent::Fail(const std::shared_ptr<Work>& work, size_t image, const absl::Status& status) {
  logger_->Warning("image_failed", {{"worker", options_.worker},
                                    {"lease", work->lease},
                                    {"slot", work->images[image]->slot},
                                    {"code", absl::StatusCodeToString(status.code())},
                                    {"message", std::string(status.message())}});
  Deliver(*work, MakeFailure(*work, image, status, clock_->Now()));
  BacklogChanged();
}

bool Agent::DeliverKept(const std::shared_ptr<Work>& work, size_t image) {
  const WorkImage& wanted = *work->images[image];
  const KeptResults::Key key(wanted.job, wanted.index);
  if (!wanted.job.empty() && kept_.Holds(key)) {
    const KeptResults::Place place = {.lease = work->lease, .slot = wanted.slot};
    std::optional<Delivery> delivery = kept_.Take(key, place);
    if (delivery.has_value()) DeliverAt(place, *std::move(delivery));
    return true;
  }
  if (!work->adopted) return false;
  Fail(work, image, absl::AbortedError("the worker does not hold the image any more"));
  return true;
}

void Agent::DeliverAt(const KeptResults::Place& place, Delivery delivery) {
  if (phase_ != Phase::kOpen || !ledger_->IsOpen(place.lease, place.slot)) return;
  // The old message may still be on its way into a stream that broke.
  delivery.message = std::make_shared<wire::DeliverImagesRequest>(*delivery.message);
  delivery.message->set_session(session_name_);
  delivery.message->set_lease(place.lease);
  delivery.message->set_slot(place.slot);
  ++backlog_.delivering;
  backlog_.bytes += delivery.bytes;
  deliveries_.Add(std::move(delivery));
  PumpDeliveries();
}

void Agent::KeepResults() {
  // What has not been on the device yet costs nothing to give up.
  std::set<uint64_t> leases;
  for (const DeviceJob& job : device_->TakeBack()) leases.insert(job.work->lease);
  for (const auto& [lease, unused] : waiting_) leases.insert(lease);
  waiting_.clear();
  int abandoned = 0;
  for (const uint64_t lease : leases) abandoned += ledger_->Abandon(lease, {});
  kept_.ForgetPlaces();
  for (const auto& [work, slots] : ledger_->Release()) {
    for (const std::unique_ptr<WorkImage>& image : work->images) {
      if (slots.count(image->slot) == 0) continue;
      if (image->job.empty()) {
        image->abandoned = true;
        ++abandoned;
      } else {
        kept_.Expect({image->job, image->index});
      }
    }
  }
  for (; abandoned > 0; --abandoned) observer_->ImageEnded(ImageOutcome::kAbandoned);
  deliveries_.Clear([this](const Delivery& delivery) {
    Forget(delivery);
    if (!delivery.job.empty()) kept_.Add({delivery.job, delivery.index}, delivery);
  });
}

void Agent::Deliver(const Work& work, Delivery delivery) {
  if (work.session != session_number_ || phase_ != Phase::kOpen) {
    if (delivery.job.empty()) return;
    const std::optional<KeptResults::Place> place = kept_.Add({delivery.job, delivery.index}, delivery);
    if (place.has_value()) DeliverAt(*place, std::move(delivery));
    return;
  }
  if (!ledger_->IsOpen(work.lease, delivery.message->slot())) return;
  ++backlog_.delivering;
  backlog_.bytes += delivery.bytes;
  deliveries_.Add(std::move(delivery));
  PumpDeliveries();
}

void Agent::PumpDeliveries() {
  if (phase_ != Phase::kOpen || delivery_writing_ || !deliveries_.has_unsent()) return;
  if (delivery_timer_.has_value()) return;  // Waiting to dial.
  if (delivery_call_ == nullptr) OpenDelivery();
  if (delivery_session_ != session_number_) return;  // Until the call of the session before has ended.
  const Delivery* delivery = deliveries_.SendNext();
  if (delivery->message->has_image()) {
    SetDuration(clock_->Now() - delivery->made, delivery->message->mutable_image()->mutable_wait());
  }
  delivery_writing_ = true;
  delivery_call_->Write(delivery->message);
}

void Agent::OpenDelivery() {
  const auto read = [this](const wire::DeliverImagesResponse& response) {
    Acknowledged(response);
    if (delivery_call_ != nullptr) delivery_call_->Read();
  };
  const auto written = [this] {
    delivery_writing_ = false;
    PumpDeliveries();
    MaybeClose();
  };
  const auto done = [this](const absl::Status& status) { DeliveryDone(status); };
  delivery_call_ =
      std::make_shared<DeliveryCall>(mailbox_, DeliveryCall::Events{.read = read, .written = written, .done = done});
  delivery_session_ = session_number_;
  delivery_call_->Start(
      [this](grpc::ClientContext* context, DeliveryCall* call) { delivery_->async()->DeliverImages(context, call); });
}

void Agent::Acknowledged(const wire::DeliverImagesResponse& response) {
  const std::unique_ptr<Delivery> delivery = deliveries_.Acknowledge(response.lease(), response.slot());
  if (delivery == nullptr) return;
  delivery_failures_ = 0;
  delivery_back_off_.Reset();
  Forget(*delivery);
  if (ledger_ != nullptr && ledger_->Close(response.lease(), response.slot())) {
    observer_->ImageEnded(delivery->message->has_failure() ? ImageOutcome::kFailed
                          : response.accepted()            ? ImageOutcome::kAccepted
                                                           : ImageOutcome::kRefused);
  }
  BacklogChanged();
  MaybeClose();
}

void Agent::DeliveryDone(const absl::Status& status) {
  delivery_call_ = nullptr;
  delivery_writing_ = false;
  if (phase_ == Phase::kEnding) {
    MaybeFinish();
    return;
  }
  if (phase_ != Phase::kOpen) return;
  if (delivery_session_ != session_number_) {
    PumpDeliveries();
    return;
  }
  deliveries_.Resend();
  observer_->Reconnecting("delivery");
  if (++delivery_failures_ >= options_.delivery_failures_max) {
    BreakSession(absl::UnavailableError(absl::StrCat("delivery streams end again and again: ", status.message())));
    return;
  }
  logger_->Warning("delivery_lost", {{"worker", options_.worker},
                                     {"code", absl::StatusCodeToString(status.code())},
                                     {"message", std::string(status.message())}});
  SetTimer(&delivery_timer_, delivery_back_off_.Next(), &Agent::PumpDeliveries);
  MaybeClose();
}

void Agent::Forget(const Delivery& delivery) {
  --backlog_.delivering;
  backlog_.bytes -= delivery.bytes;
}

void Agent::BacklogChanged() {
  observer_->BacklogChanged(backlog_.encoding, backlog_.delivering, backlog_.bytes);
  if (phase_ != Phase::kOpen || ledger_ == nullptr || draining_ || !ledger_->RaiseCredit(backlog_)) return;
  report_due_ = true;
  Report();
}

}  // namespace turbofleet
