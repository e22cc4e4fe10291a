// Agent: dialling, the session's messages, drain and end.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "worker/agent/agent.h"

namespace turbofleet {

namespace wire = internal::worker::v1;

namespace {

constexpr absl::Duration kReportIntervalMax = absl::Hours(1);

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::shared_ptr<const wire::SessionRequest> MakeHello(const Agent::Options& options, const EngineInfo& engine,
                                                      const KeptResults& kept) {
  auto request = std::make_shared<wire::SessionRequest>();
  wire::Hello& hello = *request->mutable_hello();
  hello.set_worker(options.worker);
  hello.set_version(options.version);
  hello.set_model_name(engine.model_name);
  hello.set_model_digest(engine.model_digest);
  hello.set_device(options.device.empty() ? engine.device : options.device);
  hello.set_device_name(engine.device_name);
  hello.set_precision(engine.precision);
  hello.set_default_width(engine.default_width);
  hello.set_default_height(engine.default_height);
  hello.set_size_max(engine.size_max);
  hello.set_batch_images_max(engine.batch_images_max);
  hello.set_has_tiny_vae(engine.has_tiny_vae);
  hello.set_incarnation(options.incarnation);
  for (const auto& [job, index] : kept.Keys()) {
    wire::HeldImage& held = *hello.add_held();
    held.set_job(job);
    held.set_index(index);
  }
  return request;
}

}  // namespace

void Agent::WarmedUp(const absl::Status& status) {
  if (phase_ != Phase::kWarming) return;
  if (!status.ok()) {
    End(AgentEnd::kDeviceFailed, Annotate(status, "warming up"));
    return;
  }
  logger_->Info("engine_warm", {{"worker", options_.worker},
                                {"device", engine_->device},
                                {"model", engine_->model_name},
                                {"model_digest", engine_->model_digest}});
  Dial();
}

void Agent::Dial() {
  phase_ = Phase::kDialing;
  ++session_number_;
  break_reason_ = absl::OkStatus();
  writing_ = true;
  session_ = std::make_shared<SessionCall>(
      mailbox_, SessionCall::Events{.read = [this](const wire::SessionResponse& response) { SessionRead(response); },
                                    .written = [this] { SessionWritten(); },
                                    .done = [this](const absl::Status& status) { SessionDone(status); }});
  session_->Start(
      [this](grpc::ClientContext* context, SessionCall* call) { control_->async()->Session(context, call); });
  session_->Write(MakeHello(options_, *engine_, kept_));
  SetTimer(&session_timer_, options_.welcome_timeout, &Agent::WelcomeLate);
}

void Agent::WelcomeLate() { BreakSession(absl::DeadlineExceededError("no welcome from the coordinator")); }

void Agent::SessionRead(const wire::SessionResponse& response) {
  if (phase_ != Phase::kDialing && phase_ != Phase::kOpen) {
    // Read on, so that the stream's end is seen; what still comes is for nobody.
    if (phase_ == Phase::kClosing) session_->Read();
    return;
  }
  if ((phase_ == Phase::kDialing) != response.has_welcome()) {
    BreakSession(absl::InvalidArgumentError("welcome: must be the first message, and no other"));
    return;
  }
  switch (response.message_case()) {
    case wire::SessionResponse::kWelcome:
      Welcomed(response.welcome());
      break;
    case wire::SessionResponse::kBatch:
      TakeBatch(response.batch());
      break;
    case wire::SessionResponse::kAbandon:
      Abandon(response.abandon());
      break;
    default:
      BreakSession(absl::InvalidArgumentError("message: not set, or of a kind that this release does not know"));
  }
  session_->Read();
}

void Agent::Welcomed(const wire::Welcome& welcome) {
  report_interval_ = FromProto(welcome.report_interval());
  if (report_interval_ <= absl::ZeroDuration() || report_interval_ > kReportIntervalMax) {
    BreakSession(absl::InvalidArgumentError(absl::StrCat("welcome.report_interval: not above 0 to 1 h")));
    return;
  }
  if (welcome.session().empty()) {
    BreakSession(absl::InvalidArgumentError("welcome.session: empty"));
    return;
  }
  ClearTimer(&session_timer_);
  phase_ = Phase::kOpen;
  session_name_ = welcome.session();
  ledger_ = std::make_unique<SessionLedger>(options_.ledger);
  ready_ = true;
  observer_->SessionChanged(true);
  logger_->Info("session_open", {{"worker", options_.worker}, {"session", session_name_}});
  SetTimer(&report_timer_, report_interval_, &Agent::ReportTime);
  SetTimer(&kept_timer_, options_.kept_timeout, &Agent::DropKept);
  report_due_ = true;
  Report();
}

void Agent::SessionWritten() {
  writing_ = false;
  Report();
  MaybeClose();
}

void Agent::Report() {
  if (phase_ != Phase::kOpen || !report_due_ || writing_) return;
  auto request = std::make_shared<wire::SessionRequest>();
  *request->mutable_report() = ledger_->MakeReport(device_->progress(), draining_);
  report_due_ = false;
  writing_ = true;
  session_->Write(std::move(request));
}

void Agent::ReportTime() {
  if (phase_ != Phase::kOpen) return;
  // A session that lived this long is no reason to wait longer for the next one.
  session_back_off_.Reset();
  lost_in_a_row_ = 0;
  last_loss_.clear();
  device_->Tick();
  SetTimer(&report_timer_, report_interval_, &Agent::ReportTime);
  report_due_ = true;
  Report();
}

void Agent::BreakSession(const absl::Status& reason) {
  if (phase_ != Phase::kDialing && phase_ != Phase::kOpen) return;
  break_reason_ = reason;
  phase_ = Phase::kBroken;
  DropSession();
  session_->Cancel();
}

void Agent::DropSession() {
  ClearTimer(&session_timer_);
  ClearTimer(&report_timer_);
  ClearTimer(&delivery_timer_);
  ClearTimer(&kept_timer_);
  if (ledger_ == nullptr) return;
  ready_ = false;
  observer_->SessionChanged(false);
  KeepResults();
  ledger_ = nullptr;
  delivery_failures_ = 0;
  delivery_back_off_.Reset();
  if (delivery_call_ != nullptr) delivery_call_->Cancel();
  BacklogChanged();
}

void Agent::SessionDone(const absl::Status& status) {
  session_ = nullptr;
  writing_ = false;
  report_due_ = false;
  DropSession();
  if (phase_ == Phase::kEnding) {
    MaybeFinish();
    return;
  }
  if (phase_ == Phase::kClosing || draining_) {
    EndDrained();
    return;
  }
  const bool ours = !break_reason_.ok();
  if (!ours && absl::IsAlreadyExists(status)) {
    End(AgentEnd::kSuperseded, status);
    return;
  }
  phase_ = Phase::kAway;
  const absl::Duration delay = session_back_off_.Next();
  const absl::Status ended = status.ok() ? absl::UnavailableError("the coordinator ended the session") : status;
  LogLost(ours ? break_reason_ : ended, delay);
  observer_->Reconnecting("session");
  SetTimer(&dial_timer_, delay, &Agent::Dial);
}

void Agent::LogLost(const absl::Status& status, absl::Duration delay) {
  ++lost_in_a_row_;
  // A coordinator that is away for a night must not fill a disk: the same loss is told after 1, 2, 4, 8, ... tries.
  const std::string loss = absl::StatusCodeToString(status.code());
  const bool known = loss == last_loss_ && (lost_in_a_row_ & (lost_in_a_row_ - 1)) != 0;
  if (known) return;
  last_loss_ = loss;
  logger_->Warning("session_lost", {{"worker", options_.worker},
                                    {"code", loss},
                                    {"message", std::string(status.message())},
                                    {"tries", lost_in_a_row_},
                                    {"retry_seconds", absl::ToDoubleSeconds(delay)}});
}

void Agent::StartDrain() {
  if (draining_ || phase_ == Phase::kEnding) return;
  draining_ = true;
  ready_ = false;
  logger_->Info("draining", {{"worker", options_.worker}});
  if (phase_ == Phase::kBroken) return;  // Its end follows soon.
  if (phase_ != Phase::kOpen) {
    EndDrained();
    return;
  }
  report_due_ = true;
  Report();
}

void Agent::MaybeClose() {
  if (phase_ != Phase::kOpen || !draining_ || !ledger_->empty() || !deliveries_.empty()) return;
  if (writing_ || report_due_ || delivery_writing_) return;
  phase_ = Phase::kClosing;
  session_->WritesDone();
  if (delivery_call_ != nullptr) delivery_call_->WritesDone();
  SetTimer(&session_timer_, options_.closing_timeout, &Agent::CancelSession);
}

void Agent::CancelSession() {
  if (session_ != nullptr) session_->Cancel();
}

void Agent::EndDrained() {
  if (device_error_.has_value()) {
    End(AgentEnd::kDeviceFailed, *device_error_);
  } else {
    End(AgentEnd::kDrained, absl::OkStatus());
  }
}

void Agent::End(AgentEnd end, const absl::Status& status) {
  if (!end_.has_value()) end_.emplace(end, status);
  phase_ = Phase::kEnding;
  ready_ = false;
  ClearTimer(&dial_timer_);
  ClearTimer(&failure_timer_);
  DropSession();
  kept_.Clear();
  device_->AbandonAll();
  CancelSession();
  if (delivery_call_ != nullptr) delivery_call_->Cancel();
  MaybeFinish();
}

void Agent::MaybeFinish() { finished_ = phase_ == Phase::kEnding && session_ == nullptr && delivery_call_ == nullptr; }

}  // namespace turbofleet
