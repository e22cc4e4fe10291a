#include "client/cli/command.h"

#include <cstdio>

#include "common/flags.h"

namespace turbofleet::cli {
namespace {

void PrintConnectionHint(const Globals& globals) {
  std::fprintf(stderr,
               "No coordinator answers at %s. Is it running there?\n"
               "  Start one:    turbofleet-coordinator --listen %s\n"
               "  Or use other: --coordinator HOST:PORT, or the environment variable TURBOFLEET_COORDINATOR\n",
               globals.coordinator.c_str(), globals.coordinator.c_str());
}

}  // namespace

absl::StatusOr<Client> Connect(const Globals& globals) {
  return Client::Connect({.coordinator = globals.coordinator,
                          .security = {.authority = globals.tls.authority,
                                       .certificate = globals.tls.certificate,
                                       .key = globals.tls.key,
                                       .insecure = globals.tls.insecure},
                          .retry = {}});
}

int Fail(const Globals& globals, const absl::Status& status) {
  if (status.code() == absl::StatusCode::kCancelled) {
    std::fprintf(stderr, "turbofleet: interrupted; what had arrived is kept\n");
    return kExitInterrupted;
  }
  const std::string reason = ReasonOf(status);
  std::fprintf(stderr, "turbofleet: %s%s\n", std::string(status.message()).c_str(),
               reason.empty() ? "" : (" [" + reason + "]").c_str());
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      // With a reason it is the coordinator's own word, so there is one.
      if (reason.empty()) PrintConnectionHint(globals);
      return kExitCannotConnect;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    default:
      return kExitFailed;
  }
}

int FailUsage(const std::string& command, const absl::Status& status) {
  std::fprintf(stderr, "turbofleet %s: %s\nRun 'turbofleet %s --help' to see what it takes.\n", command.c_str(),
               std::string(status.message()).c_str(), command.c_str());
  return kExitUsage;
}

}  // namespace turbofleet::cli
