#include "common/signals.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <utility>

namespace turbofleet {

struct SignalWaiter::State {
  std::function<void(int)> on_signal;
  sigset_t previous_mask;
  int signal_fd = -1;
  int stop_fd = -1;
  std::thread thread;

  void Run() {
    int count = 0;
    while (true) {
      std::array<pollfd, 2> fds = {{{signal_fd, POLLIN, 0}, {stop_fd, POLLIN, 0}}};
      if (poll(fds.data(), fds.size(), -1) < 0) {
        if (errno == EINTR) continue;
        return;
      }
      if (fds[1].revents != 0) return;
      signalfd_siginfo info;
      if (read(signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) on_signal(++count);
    }
  }
};

SignalWaiter::SignalWaiter(std::function<void(int count)> on_signal) : state_(std::make_unique<State>()) {
  state_->on_signal = std::move(on_signal);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, &state_->previous_mask);
  state_->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
  state_->stop_fd = eventfd(0, EFD_CLOEXEC);
  // Out of descriptors at the very start: a program that cannot be stopped in good order must not start.
  if (state_->signal_fd < 0 || state_->stop_fd < 0) std::abort();
  state_->thread = std::thread([state = state_.get()] { state->Run(); });
}

SignalWaiter::~SignalWaiter() {
  const uint64_t one = 1;
  if (write(state_->stop_fd, &one, sizeof(one)) != static_cast<ssize_t>(sizeof(one))) std::abort();
  state_->thread.join();
  close(state_->signal_fd);
  close(state_->stop_fd);
  pthread_sigmask(SIG_SETMASK, &state_->previous_mask, nullptr);
}

}  // namespace turbofleet
