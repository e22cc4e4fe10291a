#include "worker/agent/agent.h"

#include <utility>

namespace turbofleet {

namespace wire = internal::worker::v1;

Agent::Agent(const Options& options, Parts parts, std::function<void(AgentEnd, const absl::Status&)> on_end)
    : options_(options),
      mailbox_(std::make_shared<Mailbox>()),
      inputs_(parts.inputs),
      encoders_(parts.encoders),
      timer_(parts.timer),
      clock_(parts.clock),
      logger_(parts.logger),
      observer_(parts.observer),
      on_end_(std::move(on_end)),
      engine_(std::make_shared<const EngineInfo>(parts.engine->Info())),
      control_(wire::WorkerService::NewStub(parts.control)),
      delivery_(wire::WorkerService::NewStub(parts.delivery)),
      session_back_off_(options.back_off, parts.random),
      kept_(kSlotMax + 1, options.ledger.backlog_bytes_max),
      delivery_back_off_(options.back_off, parts.random),
      device_(std::make_unique<DeviceThread>(std::move(parts.engine), parts.clock, MakeDeviceEvents())),
      thread_([this] { Run(); }) {}

Agent::~Agent() {
  mailbox_->Post([this] {
    stopped_ = true;
    End(AgentEnd::kDrained, absl::OkStatus());
  });
  thread_.join();
}

void Agent::Drain() {
  mailbox_->Post([this] { StartDrain(); });
}

void Agent::Run() {
  while (!finished_) mailbox_->Take()();
  mailbox_->Close();
  if (!stopped_) on_end_(end_->first, end_->second);
}

DeviceThread::Events Agent::MakeDeviceEvents() {
  return {
      .warmed =
          [this](const absl::Status& status, absl::Duration took) {
            if (status.ok()) observer_->Warmed(took);
            mailbox_->Post([this, status] { WarmedUp(status); });
          },
      .started =
          [this](const DeviceJob& job) {
            logger_->Debug("batch_started", {{"worker", options_.worker}, {"lease", job.work->lease}});
          },
      .image = [this](const DeviceJob& job, size_t image, size_t batch_images,
                      absl::StatusOr<RenderedImage> result) { Rendered(job, image, batch_images, std::move(result)); },
      .ended =
          [this](const DeviceJob& job, const absl::Status& status, size_t batch_images, absl::Duration busy) {
            if (batch_images > 0) observer_->BatchRendered(batch_images, busy);
            mailbox_->Post([this, work = job.work, status] { BatchEnded(work, status); });
          }};
}

void Agent::SetTimer(std::optional<Timer::Id>* slot, absl::Duration delay, void (Agent::*call)()) {
  ClearTimer(slot);
  // A call that is already in the mailbox when the slot is cleared must do nothing, so it looks whether its token is
  // still the slot's.
  auto token = std::make_shared<std::optional<Timer::Id>>();
  *token = timer_->After(delay, [this, mailbox = mailbox_, slot, token, call] {
    mailbox->Post([this, slot, token, call] {
      if (*slot != *token) return;
      slot->reset();
      (this->*call)();
    });
  });
  *slot = *token;
}

void Agent::ClearTimer(std::optional<Timer::Id>* slot) {
  if (slot->has_value()) timer_->Cancel(**slot);
  slot->reset();
}

}  // namespace turbofleet
