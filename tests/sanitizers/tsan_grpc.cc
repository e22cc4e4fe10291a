// Tells ThreadSanitizer what gRPC orders.
//
// The system's gRPC is not instrumented and hands operations from thread to thread by atomics of its own, so
// ThreadSanitizer does not see that what a thread wrote before it started an operation comes before what another thread
// does when the operation has ended. These definitions come before those of the shared libraries and say just that, for
// each operation by the address of its tag, and for the end of a call on the server by the counter of what it waits
// for. Nothing more is ordered: two reactions of a stream on two threads remain as unordered as they are.
//
// Linked into every program of the preset `tsan` and into nothing else; written for gRPC 1.51.
#include <grpc/grpc.h>
#include <grpcpp/support/callback_common.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/server_callback.h>

#include <thread>

#include "tests/sanitizers/tsan_library.h"

namespace turbofleet {
namespace {

using Run = void (*)(grpc_completion_queue_functor*, int);

// What gRPC calls when an operation of the callback API has ended, and what it shall call.
struct Replacement {
  Run original;
  Run ordered;
};
Replacement replacements[2];
int replacement_count = 0;

template <Run original>
struct OrderedRun {
  static void Call(grpc_completion_queue_functor* tag, int ok) {
    __tsan_acquire(tag);
    original(tag, ok);
  }
  static const bool is_registered;
};
template <Run original>
const bool OrderedRun<original>::is_registered = [] {
  replacements[replacement_count++] = {original, &Call};
  return true;
}();

// Private members: an explicit instantiation may name them.
template struct OrderedRun<&grpc::internal::CallbackWithSuccessTag::StaticRun>;
template struct OrderedRun<&grpc::internal::CallbackWithStatusTag::StaticRun>;

// Tags of completion queues begin with the address of a virtual table, which is no function's.
void Replace(void* tag) {
  auto* const functor = static_cast<grpc_completion_queue_functor*>(tag);
  for (const Replacement& replacement : replacements) {
    if (functor->functor_run == replacement.original) functor->functor_run = replacement.ordered;
  }
}

char calls_ended = 0;  // Its address stands for the ends of all calls.

}  // namespace
}  // namespace turbofleet

// Ends of calls and cancellations go to threads of their own instead of to gRPC's executor, whose queue is not seen.

void grpc::internal::ServerCallbackCall::ScheduleOnDone(bool inlined) {
  __tsan_acquire(&callbacks_outstanding_);
  if (inlined) {
    CallOnDone();
  } else {
    std::thread([this] { CallOnDone(); }).detach();
  }
}

void grpc::internal::ServerCallbackCall::CallOnCancel(ServerReactor* reactor) {
  __tsan_acquire(&on_cancel_conditions_remaining_);
  if (reactor->InternalInlineable()) {
    reactor->OnCancel();
    return;
  }
  Ref();
  std::thread([this, reactor] {
    reactor->OnCancel();
    __tsan_release(&callbacks_outstanding_);
    MaybeDone();
  }).detach();
}

void grpc::internal::ClientReactor::InternalScheduleOnDone(Status status) {
  std::thread([this, status] { OnDone(status); }).detach();
}

extern "C" grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t count, void* tag,
                                                 void* reserved) {
  static auto* const library = turbofleet::Library<decltype(grpc_call_start_batch)>("grpc_call_start_batch");
  if (tag != nullptr) {
    turbofleet::Replace(tag);
    __tsan_release(tag);
  }
  return library(call, ops, count, tag, reserved);
}

// Each call on a server gives up its reference after OnDone, and a server is destroyed when all calls have ended.
extern "C" void grpc_call_unref(grpc_call* call) {
  static auto* const library = turbofleet::Library<decltype(grpc_call_unref)>("grpc_call_unref");
  __tsan_release(&turbofleet::calls_ended);
  library(call);
}

extern "C" void grpc_server_destroy(grpc_server* server) {
  static auto* const library = turbofleet::Library<decltype(grpc_server_destroy)>("grpc_server_destroy");
  library(server);
  __tsan_acquire(&turbofleet::calls_ended);
}

extern "C" grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline, void* reserved) {
  static auto* const library = turbofleet::Library<decltype(grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = library(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

extern "C" grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag, gpr_timespec deadline,
                                                  void* reserved) {
  static auto* const library =
      turbofleet::Library<decltype(grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = library(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}
