"""Several coordinators and their workers as real processes that tests may break, and clients that work through it."""

import collections
import contextlib
import hashlib
import pathlib
import shutil
import sys
import tempfile
import threading
import time

from cluster import PATIENCE_SECONDS, Program, error_details, grpc, image_service_pb2, image_service_pb2_grpc, signal
from cluster import wait_until

# A client that notices a coordinator which does not answer, and does not wait for a back-off made for the Internet.
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50),
                   ("grpc.max_reconnect_backoff_ms", 200), ("grpc.keepalive_time_ms", 5_000),
                   ("grpc.keepalive_timeout_ms", 3_000), ("grpc.use_local_subchannel_pool", 1)]


class Fleet:
    """`coordinators` processes that share `database`, or one with a folder of its own, and `workers`, spread over them.

    Use as a context manager; everything is stopped at its end. Processes are named and keep their addresses.
    """

    def __init__(self, workers, coordinators=1, database=None, data_dir=None, coordinator_arguments=(),
                 worker_arguments=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="turbofleet-chaos-"))
        self.data_dir = data_dir or self.folder / "data"
        self.database = database
        self.coordinator_arguments = coordinator_arguments
        self.worker_arguments = worker_arguments
        self.addresses = {f"coordinator-{number}": "127.0.0.1:0" for number in range(coordinators)}
        self.worker_names = [f"worker-{number}" for number in range(workers)]
        self.programs = {}
        self.channels = {}

    def __enter__(self):
        try:
            for name in self.addresses:
                self.start_coordinator(name)
            for name in self.worker_names:
                self.start_worker(name)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, traceback):
        for program in self.programs.values():
            if kind is not None:
                print(f"--- {program.log}\n{program.output()[-3000:]}", file=sys.stderr)
        for channel in self.channels.values():
            channel.close()
        for program in self.programs.values():
            if program.alive():
                program.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_coordinator(self, name):
        """Returns the seconds until it serves."""
        begin = time.monotonic()
        address_file = self.folder / f"{name}.addresses"
        address_file.unlink(missing_ok=True)
        store = ["--data-dir", self.data_dir]
        if self.database:
            store = ["--data-dir", self.folder / name, "--spool-dir", self.folder / "spool",
                     "--database", self.database, "--name", name]
        program = self.programs[name] = Program(
            "turbofleet-coordinator",
            ["--listen", self.addresses[name], "--http-listen", "127.0.0.1:0", "--address-file", address_file, *store,
             *self.coordinator_arguments],
            self.folder / f"{name}.log")
        wait_until(lambda: address_file.exists() or not program.alive(), f"{name}'s addresses")
        if not address_file.exists():
            raise AssertionError(f"{name} ended: {program.output()[-3000:]}")
        self.addresses[name] = dict(line.split("=", 1) for line in address_file.read_text().splitlines())["grpc"]
        if name not in self.channels:
            self.channels[name] = grpc.insecure_channel(self.addresses[name], options=CHANNEL_OPTIONS)
        return time.monotonic() - begin

    def start_worker(self, name):
        homes = list(self.addresses.values())
        self.programs[name] = Program(
            "turbofleet-worker",
            ["--coordinator", homes[int(name.rsplit("-", 1)[1]) % len(homes)], "--name", name, "--engine", "simulated",
             *self.worker_arguments],
            self.folder / f"{name}.log")

    def kill(self, name):
        self.programs[name].kill()

    def end(self, name):
        """SIGTERM. Returns the exit code."""
        self.programs[name].send(signal.SIGTERM)
        return self.programs[name].wait()

    def images(self, number):
        """A stub of one of the coordinators."""
        channels = list(self.channels.values())
        return image_service_pb2_grpc.ImageServiceStub(channels[number % len(channels)])


def digest(image):
    """Of the picture, as its file has it where that is without a format."""
    if image.format != image_service_pb2.IMAGE_FORMAT_RAW:
        return image.pixel_sha256
    found = hashlib.sha256(image.content).hexdigest()
    return found if found == image.pixel_sha256 else f"{found} said to be {image.pixel_sha256}"


class Recipe:
    """Images that a test asks for again and again."""

    def __init__(self, number, prompts, count, image_format=image_service_pb2.IMAGE_FORMAT_RAW):
        self.fields = {"format": image_format, "prompts": [f"chaos {number} {prompt}" for prompt in range(prompts)], "seed": 1_000 * number,
                       "count": count}
        self.image_count = prompts * count
        self.calm = {}  # Digests by index, of a run that nothing disturbed.

    def request(self, **more):
        return image_service_pb2.GenerateImagesRequest(**self.fields, **more)

    def run_calmly(self, stub):
        for event in stub.GenerateImages(self.request(), timeout=PATIENCE_SECONDS * 3):
            if event.WhichOneof("event") == "image":
                self.calm[event.image.index] = digest(event.image)
        assert len(self.calm) == self.image_count, (len(self.calm), self.image_count)


def is_resumable(error):
    """What a client may try again: the call was cut, or the answer says when to.

    A call that reaches a server in the moment of its shutdown is cancelled by gRPC itself, without one of our reasons;
    the C++ client goes on after that too.
    """
    cut = error.code() == grpc.StatusCode.CANCELLED and not error_details(error)[0]
    return cut or error.code() == grpc.StatusCode.UNAVAILABLE or "RetryInfo" in error_details(error)[1]


class Client(threading.Thread):
    """One client that gives work to a fleet until `stop`, goes on after every resumable error, and keeps count."""

    def __init__(self, fleet, number, recipes, stop):
        super().__init__(daemon=True)
        self.fleet, self.number, self.recipes, self.stop = fleet, number, recipes, stop
        self.counts = collections.Counter()
        self.problems = []
        self.home = number  # Which coordinator it talks to.
        self.back_off = threading.Event()  # Never set.

    def run(self):
        try:
            turn = self.number
            while not self.stop.is_set():
                self.work(self.recipes[turn % len(self.recipes)])
                turn += 1
        except Exception as error:  # pylint: disable=broad-except
            self.problems.append(f"{type(error).__name__}: {error}")

    def try_again(self, error):
        """Goes on with the next coordinator, or raises what no client could go on after."""
        if not is_resumable(error):
            raise error
        self.counts["resumed"] += 1
        self.home += 1
        self.back_off.wait(0.05)

    def take(self, recipe, ended, event):
        """Compares an image with that of the calm run, and remembers it."""
        kind = event.WhichOneof("event")
        result = getattr(event, kind)
        if result.index in ended:
            self.counts["duplicate"] += 1
        ended.append(result.index)
        self.counts["images"] += 1
        if kind == "failure":
            self.counts["lost"] += 1
            self.problems.append(f"image {result.index} failed: {result.reason} {result.message}")
        elif digest(result) != recipe.calm[result.index]:
            self.counts["different"] += 1
            self.problems.append(f"image {result.index} of {recipe.fields} is different: {digest(result)}, not "
                                 f"{recipe.calm[result.index]}")
        else:
            self.counts["rendered_again"] += result.attempt > 1

    def check_complete(self, recipe, ended):
        self.counts["lost"] += len(set(range(recipe.image_count)) - set(ended))


class CallClient(Client):
    """GenerateImages calls; one that is cut is asked again for as a whole."""

    def work(self, recipe):
        while True:
            ended = []
            try:
                for event in self.fleet.images(self.home).GenerateImages(
                        recipe.request(priority=image_service_pb2.PRIORITY_INTERACTIVE), timeout=PATIENCE_SECONDS * 2):
                    if event.WhichOneof("event") != "accepted":
                        self.take(recipe, ended, event)
                break
            except grpc.RpcError as error:
                self.try_again(error)
        self.check_complete(recipe, ended)
        self.counts["calls"] += 1


class JobClient(Client):
    """Durable jobs, each watched from token to token to its end, replayed, and deleted."""

    def work(self, recipe):
        self.counts["jobs"] += 1
        job = self.create(recipe, f"chaos/{self.number}/{self.counts['jobs']}")
        ended = []
        self.watch(job.name, lambda event: self.take(recipe, ended, event))
        self.check_complete(recipe, ended)
        # What is in the store is what was sent, in the order in which it was.
        replayed = []
        last = self.watch(job.name, lambda event: replayed.append(getattr(event, event.WhichOneof("event")).index),
                          without_content=True)
        if replayed != ended:
            self.problems.append(f"{job.name}: a replay has {len(replayed)} events, not the {len(ended)} that came")
        if (last.state, last.images_completed) != (image_service_pb2.Job.STATE_COMPLETED, recipe.image_count):
            self.problems.append(f"it ended as {last}")

    def create(self, recipe, request_id):
        spec = image_service_pb2.JobSpec(images=recipe.request(), request_id=request_id)
        create = image_service_pb2.CreateJobRequest(job=spec)
        job = self.call(lambda stub: stub.CreateJob(iter([create]), timeout=PATIENCE_SECONDS))
        again = self.call(lambda stub: stub.CreateJob(iter([create]), timeout=PATIENCE_SECONDS))
        if again.name != job.name:
            self.problems.append(f"{request_id} made two jobs")
        return job

    def call(self, call):
        while True:
            try:
                return call(self.fleet.images(self.home))
            except grpc.RpcError as error:
                self.try_again(error)

    def watch(self, name, take, without_content=False):
        """Every event but the job's own goes to `take`. Returns the job at its end."""
        token, job = "", None
        while job is None or job.state == image_service_pb2.Job.STATE_RUNNING:
            request = image_service_pb2.WatchJobRequest(name=name, resume_token=token, without_content=without_content)
            with contextlib.closing(StreamOf(self.fleet.images(self.home), request)) as events:
                try:
                    for event in events:
                        token = event.resume_token
                        if event.WhichOneof("event") == "job":
                            job = event.job
                        else:
                            take(event)
                except grpc.RpcError as error:
                    job = None
                    self.try_again(error)
        return job


class StreamOf:
    """The events of a watch, which is dropped at the end."""

    def __init__(self, stub, request):
        self.call = stub.WatchJob(request)

    def __iter__(self):
        return iter(self.call)

    def close(self):
        self.call.cancel()
