"""A PostgreSQL server of its own in a temporary folder, reached through a socket there."""

import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

from cluster import PATIENCE_SECONDS, wait_until


def program(name):
    """Debian keeps them outside of the PATH."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise AssertionError(f"there is no {name} in /usr/lib/postgresql; install what deploy/packages.txt lists")
    return found[-1]


class PostgresServer:
    """Use as a context manager. `conninfo` is for the coordinator; it stays over restarts."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="turbofleet-postgres-"))
        self.conninfo = f"host={self.folder} user=turbofleet dbname=postgres"
        self._process = None
        # It refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None

    def __enter__(self):
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        subprocess.run([program("initdb"), "--pgdata", self.folder / "data", "--auth=trust", "--username=turbofleet",
                        "--encoding=UTF8", "--no-locale", "--no-sync"],
                       check=True, stdout=subprocess.DEVNULL, **self._as_user())
        self.start()
        return self

    def __exit__(self, *_):
        if self._process:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _as_user(self):
        identity = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        return {"cwd": self.folder, "env": {**os.environ, "LC_ALL": "C"}, **identity}

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user())
        ready = [program("pg_isready"), "--quiet", "--host", self.folder]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")

    def stop(self):
        """As a crash does: sessions are cut, and the next start recovers."""
        self._process.send_signal(subprocess.signal.SIGQUIT)
        self._process.wait(PATIENCE_SECONDS)
        self._process = None

    def ask(self, sql):
        """The answer's rows as text, one a line."""
        return subprocess.run(
            [program("psql"), "--host", self.folder, "--username", "turbofleet", "--dbname", "postgres", "--no-psqlrc",
             "--tuples-only", "--no-align", "--command", f"set search_path to turbofleet; {sql}"],
            check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout.removeprefix("SET\n").strip()
