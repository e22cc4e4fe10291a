"""A Turbofleet cluster of real processes on loopback, for tests.

Nothing here waits for a fixed time: `wait_until` polls a condition and fails with what it was waiting for.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

BIN_DIR = pathlib.Path(os.environ["TURBOFLEET_BIN_DIR"])
STUB_DIR = os.environ["TURBOFLEET_STUB_DIR"]
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEMO_MODEL = REPOSITORY / "worker" / "demo_model" / "model"

# `google` is a package that python3-protobuf already owns; google.rpc joins it.
sys.path.insert(0, STUB_DIR)
import google  # noqa: E402

google.__path__.append(os.path.join(STUB_DIR, "google"))

import grpc  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from turbofleet.v1 import cluster_service_pb2, cluster_service_pb2_grpc  # noqa: E402
from turbofleet.v1 import image_service_pb2, image_service_pb2_grpc  # noqa: E402

# Sanitizer builds are many times slower; every limit is for a machine that is busy besides.
PATIENCE_SECONDS = 60


def wait_until(condition, what, timeout=PATIENCE_SECONDS):
    """Returns the first true value of `condition()`, or fails saying `what` was awaited."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.01)


class Program:
    """One process with its output in a file."""

    def __init__(self, name, arguments, log, environment=None):
        self.name = name
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [str(BIN_DIR / name), *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **(environment or {})})

    def alive(self):
        return self.process.poll() is None

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def wait(self, timeout=PATIENCE_SECONDS):
        return self.process.wait(timeout)

    def output(self):
        return pathlib.Path(self.log).read_text(errors="replace")


class Cluster:
    """A coordinator and its workers. Use as a context manager; everything is stopped at its end."""

    def __init__(self, workers=2, engine=("--engine", "simulated"), worker_arguments=(), coordinator_arguments=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="turbofleet-test-"))
        self.engine = list(engine)
        self.worker_arguments = list(worker_arguments)
        self.coordinator_arguments = list(coordinator_arguments)
        self.workers = {}
        self.coordinator = None
        self.address = "127.0.0.1:0"
        self.http_address = "127.0.0.1:0"
        self.initial_workers = workers
        self._channel = None

    def __enter__(self):
        try:
            self.start_coordinator()
            for number in range(self.initial_workers):
                self.start_worker(f"worker-{number}")
            self.wait_for_workers(self.initial_workers)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, traceback):
        if kind is not None:
            for program in [self.coordinator, *self.workers.values()]:
                if program:
                    print(f"--- {program.log}\n{program.output()[-4000:]}", file=sys.stderr)
        self.close_channel()
        for program in [*self.workers.values(), self.coordinator]:
            if program and program.alive():
                program.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_coordinator(self):
        """Starts it, at the same addresses when it ran before."""
        address_file = self.folder / "coordinator.addresses"
        address_file.unlink(missing_ok=True)
        self.coordinator = Program(
            "turbofleet-coordinator",
            ["--listen", self.address, "--http-listen", self.http_address, "--data-dir", self.folder / "data",
             "--address-file", address_file, *self.coordinator_arguments],
            self.folder / "coordinator.log")
        wait_until(lambda: address_file.exists() or not self.coordinator.alive(), "the coordinator's addresses")
        if not address_file.exists():
            raise AssertionError("the coordinator ended: " + self.coordinator.output())
        addresses = dict(line.split("=", 1) for line in address_file.read_text().splitlines())
        self.address, self.http_address = addresses["grpc"], addresses["http"]

    def start_worker(self, name, arguments=(), engine=None):
        self.workers[name] = Program(
            "turbofleet-worker",
            ["--coordinator", self.address, "--name", name, "--http-listen", "127.0.0.1:0",
             "--address-file", self.folder / f"{name}.http",
             *(self.engine if engine is None else engine), *self.worker_arguments, *arguments],
            self.folder / f"{name}.log")
        return self.workers[name]

    def wait_for_workers(self, count):
        def ready():
            for name, worker in self.workers.items():
                if not worker.alive() and count >= len(self.workers):
                    raise AssertionError(f"{name} ended: {worker.output()}")
            with contextlib.suppress(grpc.RpcError):
                return self.state().workers_ready == count
            return False
        wait_until(ready, f"{count} ready workers", timeout=180)

    def channel(self):
        if self._channel is None:
            # A test that restarts the coordinator must not wait for a back-off made for the Internet.
            self._channel = grpc.insecure_channel(self.address, options=[
                ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)])
        return self._channel

    def close_channel(self):
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def images(self):
        return image_service_pb2_grpc.ImageServiceStub(self.channel())

    def state(self):
        stub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel())
        return stub.GetCluster(cluster_service_pb2.GetClusterRequest(), timeout=PATIENCE_SECONDS)

    def list_workers(self):
        stub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel())
        return stub.ListWorkers(cluster_service_pb2.ListWorkersRequest(), timeout=PATIENCE_SECONDS).workers

    def http(self, path):
        with urllib.request.urlopen(f"http://{self.http_address}{path}", timeout=PATIENCE_SECONDS) as answer:
            return answer.read().decode()

    def metric(self, name, **labels):
        """The sum of the samples of `name` whose labels include `labels`."""
        total = 0.0
        for line in self.http("/metrics").splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if all(found.get(key) == value for key, value in labels.items()):
                    total += float(match[3])
        return total

    def generate(self, timeout=PATIENCE_SECONDS, **fields):
        """All events of one call: (accepted, images by index, failures by index). Fails if an index ends twice."""
        request = image_service_pb2.GenerateImagesRequest(**fields)
        accepted, images, failures = None, {}, {}
        for event in self.images().GenerateImages(request, timeout=timeout):
            kind = event.WhichOneof("event")
            if kind == "accepted":
                assert accepted is None, "accepted twice"
                accepted = event.accepted
                continue
            assert accepted is not None, "an image before accepted"
            ended = getattr(event, kind)
            assert ended.index not in images and ended.index not in failures, f"index {ended.index} ended twice"
            (images if kind == "image" else failures)[ended.index] = ended
        return accepted, images, failures

    def turbofleet(self, *arguments, timeout=120, environment=None):
        """Runs the command line against this cluster."""
        return subprocess.run(
            [str(BIN_DIR / "turbofleet"), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout,
            env={**os.environ, "TURBOFLEET_COORDINATOR": self.address, **(environment or {})})


def error_details(error):
    """(ErrorInfo or None, {detail name: message}) of a failed call."""
    details = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                name = packed.type_url.rsplit(".", 1)[-1]
                message = getattr(error_details_pb2, name)()
                packed.Unpack(message)
                details[name] = message
    return details.get("ErrorInfo"), details


__all__ = ["BIN_DIR", "Cluster", "DEMO_MODEL", "PATIENCE_SECONDS", "Program", "REPOSITORY", "error_details", "grpc",
           "image_service_pb2", "signal", "wait_until"]
