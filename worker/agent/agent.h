// The worker's side of the protocol, for one device.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/log.h"
#include "grpcpp/channel.h"
#include "turbofleet/internal/worker/v1/worker_service.grpc.pb.h"
#include "worker/agent/back_off.h"
#include "worker/agent/delivery_queue.h"
#include "worker/agent/device_thread.h"
#include "worker/agent/encoder_pool.h"
#include "worker/agent/input_cache.h"
#include "worker/agent/kept_results.h"
#include "worker/agent/mailbox.h"
#include "worker/agent/observer.h"
#include "worker/agent/session_ledger.h"
#include "worker/agent/stream_call.h"
#include "worker/agent/timer.h"
#include "worker/agent/work.h"
#include "worker/engine/engine.h"

namespace turbofleet {

// Why an agent ended.
enum class AgentEnd {
  kDrained,       // As asked: everything that it had was delivered and acknowledged, or belonged to no session.
  kSuperseded,    // A newer session of the same worker took over.
  kDeviceFailed,  // The engine cannot go on.
};

// Warms its engine, dials the coordinator and keeps dialling, renders what it is sent, and hands over the results.
//
// A batch passes through: the control thread (checks it, gets start pictures), the device's thread (renders), the
// encoder pool (files), and the control thread again (delivers). Control and delivery use a connection each. When the
// session breaks, its batches are dropped, because the coordinator gives them to others; but what is on the device or
// behind it for a durable job goes on, and is offered to the next session (KeptResults). The engine stays warm.
//
// Thread-safe.
class Agent {
 public:
  struct Options {
    std::string worker;       // Hello.worker.
    std::string version;      // Hello.version.
    std::string incarnation;  // Hello.incarnation.
    std::string device;       // Hello.device; empty: the engine's.
    SessionLedger::Options ledger;
    BackOff::Options back_off;
    absl::Duration welcome_timeout = absl::Seconds(10);  // From dialling to Welcome.
    absl::Duration closing_timeout = absl::Seconds(5);   // From the last message to the stream's end.
    absl::Duration kept_timeout = absl::Minutes(1);      // From Welcome until results that nobody wants are dropped.
    // After a device failure: for the results that are there to be acknowledged.
    absl::Duration failure_timeout = absl::Seconds(5);
    // Delivery streams that end one after the other without an acknowledgement; then the session is given up too.
    int delivery_failures_max = 8;
  };

  // What it stands on. All pointers must outlive the agent; `encoders`, `clock` and `observer` also the last job in
  // `encoders`, so the pool goes before the other two.
  struct Parts {
    std::unique_ptr<Engine> engine;
    std::shared_ptr<grpc::Channel> control;
    std::shared_ptr<grpc::Channel> delivery;  // A connection of its own.
    std::shared_ptr<InputCache> inputs;
    EncoderPool* encoders = nullptr;
    Timer* timer = nullptr;
    const Clock* clock = nullptr;
    Logger* logger = nullptr;
    AgentObserver* observer = nullptr;
    std::function<double()> random;  // From 0 up to, not including, 1. Called from the control thread.
  };

  // Starts. `on_end` is called once, from the control thread, as the agent's last act; the status says more.
  Agent(const Options& options, Parts parts, std::function<void(AgentEnd, const absl::Status&)> on_end);
  // Ends at once, without `on_end` if it has not been called, and waits for the batch on the device.
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Takes nothing new, finishes and delivers what is there, and ends. Idempotent.
  void Drain();

  // Warm, with an open session, and not draining.
  bool ready() const { return ready_; }

  // Whether the destructor would have to wait for the engine.
  bool device_busy() const { return device_->busy(); }

 private:
  using SessionCall = StreamCall<internal::worker::v1::SessionRequest, internal::worker::v1::SessionResponse>;
  using DeliveryCall =
      StreamCall<internal::worker::v1::DeliverImagesRequest, internal::worker::v1::DeliverImagesResponse>;

  enum class Phase {
    kWarming,
    kAway,     // Waiting to dial.
    kDialing,  // Hello was sent.
    kOpen,     // Welcome came.
    kBroken,   // The stream is of no use any more, its end is awaited.
    kClosing,  // Drained, half-closed.
    kEnding,   // Nothing is started any more; streams end.
  };

  void Run();
  DeviceThread::Events MakeDeviceEvents();

  // The session (agent_session.cc).
  void WarmedUp(const absl::Status& status);
  void Dial();
  void WelcomeLate();
  void SessionRead(const internal::worker::v1::SessionResponse& response);
  void Welcomed(const internal::worker::v1::Welcome& welcome);
  void SessionWritten();
  void SessionDone(const absl::Status& status);
  void BreakSession(const absl::Status& reason);
  void DropSession();
  void Report();
  void ReportTime();
  void LogLost(const absl::Status& status, absl::Duration delay);
  void StartDrain();
  void MaybeClose();
  void CancelSession();
  void DropKept() { kept_.DropUnwanted(); }
  void End(AgentEnd end, const absl::Status& status);
  void EndDrained();
  void MaybeFinish();

  // From the device's thread: hands the picture to the encoders.
  void Rendered(const DeviceJob& job, size_t image, size_t batch_images, absl::StatusOr<RenderedImage> result);

  // Batches and results (agent_work.cc).
  void TakeBatch(const internal::worker::v1::Batch& batch);
  void InputArrived(const std::shared_ptr<Work>& work, const std::string& sha256,
                    const absl::StatusOr<std::shared_ptr<const RgbImage>>& result);
  void Dispatch(const std::shared_ptr<Work>& work);
  void Abandon(const internal::worker::v1::Abandon& abandon);
  void BatchEnded(const std::shared_ptr<Work>& work, const absl::Status& status);
  void DeviceFailed(const absl::Status& status);
  void Fail(const std::shared_ptr<Work>& work, size_t image, const absl::Status& status);
  // Delivers, or abandons, an image of an adopted batch, or one of another that is held by chance. False: it is to be
  // rendered.
  bool DeliverKept(const std::shared_ptr<Work>& work, size_t image);
  void DeliverAt(const KeptResults::Place& place, Delivery delivery);
  void KeepResults();
  void Deliver(const Work& work, Delivery delivery);
  void PumpDeliveries();
  void OpenDelivery();
  void Acknowledged(const internal::worker::v1::DeliverImagesResponse& response);
  void DeliveryDone(const absl::Status& status);
  void Forget(const Delivery& delivery);
  void BacklogChanged();

  // Runs `call` on the control thread after `delay`, unless the slot is set again or cleared before.
  void SetTimer(std::optional<Timer::Id>* slot, absl::Duration delay, void (Agent::*call)());
  void ClearTimer(std::optional<Timer::Id>* slot);

  // Constant.
  const Options options_;
  const std::shared_ptr<Mailbox> mailbox_;
  const std::shared_ptr<InputCache> inputs_;
  EncoderPool* const encoders_;
  Timer* const timer_;
  const Clock* const clock_;
  Logger* const logger_;
  AgentObserver* const observer_;
  const std::function<void(AgentEnd, const absl::Status&)> on_end_;
  const std::shared_ptr<const EngineInfo> engine_;  // Shared with jobs in the pool, which may outlive the agent.
  const std::unique_ptr<internal::worker::v1::WorkerService::Stub> control_;
  const std::unique_ptr<internal::worker::v1::WorkerService::Stub> delivery_;

  std::atomic<bool> ready_ = false;

  // Only the control thread, from here on.
  Phase phase_ = Phase::kWarming;
  bool draining_ = false;
  bool stopped_ = false;   // By the destructor: no `on_end`.
  bool finished_ = false;  // The control thread ends.
  std::optional<absl::Status> device_error_;
  std::optional<std::pair<AgentEnd, absl::Status>> end_;

  BackOff session_back_off_;
  int lost_in_a_row_ = 0;
  std::string last_loss_;  // As it was logged.
  std::shared_ptr<SessionCall> session_;
  int64_t session_number_ = 0;
  std::string session_name_;
  absl::Duration report_interval_;
  bool writing_ = false;  // Of the session.
  bool report_due_ = false;
  absl::Status break_reason_;  // Ours, if it was us who broke it.
  std::unique_ptr<SessionLedger> ledger_;
  std::optional<Timer::Id> dial_timer_;
  std::optional<Timer::Id> session_timer_;  // Welcome, or the stream's end.
  std::optional<Timer::Id> report_timer_;
  std::optional<Timer::Id> failure_timer_;
  std::optional<Timer::Id> kept_timer_;  // What nobody has asked for by then is dropped.

  // Start pictures that a batch of this session waits for, by lease.
  struct Waiting {
    int inputs = 0;
    std::map<std::string, absl::Status> failed;  // By SHA-256.
  };
  std::map<uint64_t, Waiting> waiting_;

  KeptResults kept_;  // Of sessions that broke.
  Backlog backlog_;
  DeliveryQueue deliveries_;
  BackOff delivery_back_off_;
  int delivery_failures_ = 0;
  std::shared_ptr<DeliveryCall> delivery_call_;
  int64_t delivery_session_ = 0;  // That the call belongs to.
  bool delivery_writing_ = false;
  std::optional<Timer::Id> delivery_timer_;

  std::unique_ptr<DeviceThread> device_;
  std::thread thread_;  // Last: it uses all of the above.
};

}  // namespace turbofleet
