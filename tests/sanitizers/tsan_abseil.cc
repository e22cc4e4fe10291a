// Tells ThreadSanitizer about absl::Mutex and absl::CondVar.
//
// The system's Abseil is not instrumented, so ThreadSanitizer sees no lock in it and takes everything that a lock
// guards for a race. These definitions come before those of the shared library: each calls the library's and says what
// it orders. They say it by acquire and release on the mutex's address, because the library also runs conditions on
// threads that are inside Unlock(), where an annotation of the mutex as such would not fit.
//
// Locks that gRPC takes for itself stay unseen. All its threads go through a few of them, which orders by chance nearly
// everything that happens in reactions, so that races there would not be found; tsan_grpc.cc says what gRPC promises.
//
// Linked into every program of the preset `tsan` and into nothing else.
#include <string>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/sanitizers/tsan_library.h"

#define TURBOFLEET_STRING(x) #x
#define TURBOFLEET_EXPANDED_STRING(x) TURBOFLEET_STRING(x)

extern "C" const char __executable_start;
extern "C" const char etext;

namespace absl {
ABSL_NAMESPACE_BEGIN
namespace {

// The library's own definition of a member function, which is called like a free function that takes the object first.
// `member` is its mangled name after the namespace.
template <typename Function>
Function* Library(const char* member) {
  const std::string inline_namespace = TURBOFLEET_EXPANDED_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string symbol = "_ZN4absl" + std::to_string(inline_namespace.size()) + inline_namespace + member;
  return turbofleet::Library<Function>(symbol.c_str());
}

// Whether the caller is the program itself, which holds all that is ours, rather than a shared library.
bool IsOurs(const void* caller) { return caller >= &__executable_start && caller < &etext; }

void Acquire(Mutex* mutex, const void* caller) {
  if (IsOurs(caller)) __tsan_acquire(mutex);
}

void Release(Mutex* mutex, const void* caller) {
  if (IsOurs(caller)) __tsan_release(mutex);
}

// A condition of somebody's, run on whatever thread holds the mutex at the moment.
struct OrderedCondition {
  static bool Eval(OrderedCondition* self) {
    __tsan_acquire(self->mutex);
    const bool result = self->condition->Eval();
    __tsan_release(self->mutex);
    return result;
  }

  Mutex* mutex;
  const Condition* condition;
};

}  // namespace

void Mutex::Lock() {
  static auto* const library = Library<void(Mutex*)>("5Mutex4LockEv");
  library(this);
  Acquire(this, __builtin_return_address(0));
}

void Mutex::Unlock() {
  static auto* const library = Library<void(Mutex*)>("5Mutex6UnlockEv");
  Release(this, __builtin_return_address(0));
  library(this);
}

bool Mutex::TryLock() {
  static auto* const library = Library<bool(Mutex*)>("5Mutex7TryLockEv");
  const bool locked = library(this);
  if (locked) Acquire(this, __builtin_return_address(0));
  return locked;
}

void Mutex::ReaderLock() {
  static auto* const library = Library<void(Mutex*)>("5Mutex10ReaderLockEv");
  library(this);
  Acquire(this, __builtin_return_address(0));
}

void Mutex::ReaderUnlock() {
  static auto* const library = Library<void(Mutex*)>("5Mutex12ReaderUnlockEv");
  Release(this, __builtin_return_address(0));
  library(this);
}

void Mutex::LockWhen(const Condition& condition) {
  static auto* const library = Library<void(Mutex*, const Condition&)>("5Mutex8LockWhenERKNS0_9ConditionE");
  OrderedCondition ordered = {this, &condition};
  library(this, Condition(&OrderedCondition::Eval, &ordered));
  Acquire(this, __builtin_return_address(0));
}

void Mutex::Await(const Condition& condition) {
  static auto* const library = Library<void(Mutex*, const Condition&)>("5Mutex5AwaitERKNS0_9ConditionE");
  OrderedCondition ordered = {this, &condition};
  Release(this, __builtin_return_address(0));
  library(this, Condition(&OrderedCondition::Eval, &ordered));
  Acquire(this, __builtin_return_address(0));
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static auto* const library =
      Library<bool(Mutex*, const Condition&, Duration)>("5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  OrderedCondition ordered = {this, &condition};
  Release(this, __builtin_return_address(0));
  const bool result = library(this, Condition(&OrderedCondition::Eval, &ordered), timeout);
  Acquire(this, __builtin_return_address(0));
  return result;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static auto* const library =
      Library<bool(Mutex*, const Condition&, Time)>("5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  OrderedCondition ordered = {this, &condition};
  Release(this, __builtin_return_address(0));
  const bool result = library(this, Condition(&OrderedCondition::Eval, &ordered), deadline);
  Acquire(this, __builtin_return_address(0));
  return result;
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const library = Library<void(CondVar*, Mutex*)>("7CondVar4WaitEPNS0_5MutexE");
  Release(mutex, __builtin_return_address(0));
  library(this, mutex);
  Acquire(mutex, __builtin_return_address(0));
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const library =
      Library<bool(CondVar*, Mutex*, Duration)>("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  Release(mutex, __builtin_return_address(0));
  const bool result = library(this, mutex, timeout);
  Acquire(mutex, __builtin_return_address(0));
  return result;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto* const library =
      Library<bool(CondVar*, Mutex*, Time)>("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  Release(mutex, __builtin_return_address(0));
  const bool result = library(this, mutex, deadline);
  Acquire(mutex, __builtin_return_address(0));
  return result;
}

ABSL_NAMESPACE_END
}  // namespace absl
