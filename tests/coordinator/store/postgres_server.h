// A PostgreSQL server of its own for a test program, in a folder that is gone afterwards.
#pragma once

#include <sys/types.h>

#include <string>

#include "tests/support/temporary_folder.h"

namespace turbofleet {

// Listens on a Unix socket only. The server ends with this process, however that ends. As root it runs as another user,
// as PostgreSQL insists. Ends the program where PostgreSQL is not installed. Thread-compatible.
class PostgresServer {
 public:
  // `durable`: as users run it; else without waiting for the disk, which tests of answers do not need.
  explicit PostgresServer(bool durable);
  ~PostgresServer();

  // How libpq reaches it.
  std::string conninfo() const;

  // Waits until it takes connections. REQUIRES: not running.
  void Start();
  // Ends it, and waits: SIGINT with the sessions' transactions rolled back, SIGQUIT as a crash does.
  void Stop(int signal);
  // To the server and all of its sessions, such as SIGSTOP.
  void SignalAll(int signal) const;

 private:
  const bool durable_;
  TemporaryFolder folder_;
  pid_t pid_ = -1;
};

}  // namespace turbofleet
