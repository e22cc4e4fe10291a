// SIGTERM and SIGINT as an event that a program waits for.
#pragma once

#include <functional>
#include <memory>

namespace turbofleet {

// Blocks both signals in the constructing thread and those it starts later, and calls `on_signal(count)` from a thread
// of its own at each one: 1 for the first (drain), 2 and above for impatience. Construct before any other thread.
class SignalWaiter {
 public:
  explicit SignalWaiter(std::function<void(int count)> on_signal);
  ~SignalWaiter();
  SignalWaiter(const SignalWaiter&) = delete;
  SignalWaiter& operator=(const SignalWaiter&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace turbofleet
