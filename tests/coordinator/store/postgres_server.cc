#include "tests/coordinator/store/postgres_server.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace turbofleet {
namespace {

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "PostgreSQL for the tests: %s\n", what.c_str());
  std::exit(1);
}

// Where Debian keeps the programs, which are not in the PATH.
std::string ProgramFolder() {
  std::error_code ignored;
  for (const auto& version : std::filesystem::directory_iterator("/usr/lib/postgresql", ignored)) {
    const std::string folder = version.path().string() + "/bin";
    if (access((folder + "/initdb").c_str(), X_OK) == 0) return folder;
  }
  Fail("there is none in /usr/lib/postgresql; install what deploy/packages.txt lists");
}

// Null: this user will do.
const passwd* UnprivilegedUser() {
  if (getuid() != 0) return nullptr;
  const passwd* user = getpwnam("postgres");
  if (user == nullptr) user = getpwnam("nobody");
  if (user == nullptr) Fail("there is neither a user postgres nor nobody");
  return user;
}

// Starts a program, its output going to `output`, in a process group of its own. Ends with this one.
pid_t Spawn(std::vector<std::string> arguments, int output) {
  const passwd* user = UnprivilegedUser();
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child != 0) return child;
  setpgid(0, 0);
  if (user != nullptr && (setgroups(0, nullptr) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0))
    _exit(125);
  prctl(PR_SET_PDEATHSIG, SIGQUIT);
  if (getppid() != parent) _exit(125);
  dup2(output, 1);
  dup2(output, 2);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  setenv("LC_ALL", "C", 1);
  execv(argv[0], argv.data());
  _exit(126);
}

}  // namespace

PostgresServer::PostgresServer(bool durable) : durable_(durable) {
  if (const passwd* user = UnprivilegedUser(); user != nullptr) {
    if (chown(folder_.path().c_str(), user->pw_uid, user->pw_gid) != 0) Fail("cannot give the folder away");
  }
  const int silence = open("/dev/null", O_WRONLY | O_CLOEXEC);
  const pid_t initdb = Spawn({ProgramFolder() + "/initdb", "--pgdata", folder_.path() + "/data", "--auth=trust",
                              "--username=turbofleet", "--encoding=UTF8", "--no-locale", "--no-sync"},
                             silence);
  int status = 0;
  waitpid(initdb, &status, 0);
  close(silence);
  if (status != 0) Fail(absl::StrCat("initdb ended with ", status));
  Start();
}

PostgresServer::~PostgresServer() {
  if (pid_ > 0) Stop(SIGQUIT);
}

std::string PostgresServer::conninfo() const {
  return absl::StrCat("host=", folder_.path(), " user=turbofleet dbname=postgres");
}

void PostgresServer::Start() {
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) Fail("cannot make a pipe");
  std::vector<std::string> arguments = {ProgramFolder() + "/postgres", "-D", folder_.path() + "/data", "-k",
                                        folder_.path()};
  // Errors are part of the tests and not logged, so that nobody has to read the pipe later.
  for (const char* setting : {"listen_addresses=", "log_min_messages=log", "log_checkpoints=off"}) {
    arguments.insert(arguments.end(), {"-c", setting});
  }
  if (!durable_) arguments.insert(arguments.end(), {"-c", "fsync=off"});
  pid_ = Spawn(arguments, output[1]);
  close(output[1]);
  std::string log;
  char byte = 0;
  while (!absl::StrContains(log, "ready to accept connections")) {
    if (read(output[0], &byte, 1) != 1) Fail(absl::StrCat("it did not start:\n", log));
    log.push_back(byte);
  }
  // What it writes from now on fails, which it ignores.
  close(output[0]);
}

void PostgresServer::Stop(int signal) {
  kill(pid_, signal);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void PostgresServer::SignalAll(int signal) const {
  // Sessions are children of the server, each with a process group of its own.
  const std::string file = absl::StrCat("/proc/", pid_, "/task/", pid_, "/children");
  std::vector<pid_t> processes = {pid_};
  if (FILE* children = std::fopen(file.c_str(), "r"); children != nullptr) {
    int child = 0;
    while (std::fscanf(children, "%d", &child) == 1) processes.push_back(child);
    std::fclose(children);
  }
  for (const pid_t process : processes) kill(process, signal);
}

}  // namespace turbofleet
