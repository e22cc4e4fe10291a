"""Breaks clusters of real processes under load, and compares every picture with that of a calm run.

As a test each scenario is short. For longer, with figures: `chaos_test.py --minutes 10 --seed 7 [--scenario NAME]`.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build" / "dev"
os.environ.setdefault("TURBOFLEET_BIN_DIR", str(BUILD / "bin"))
os.environ.setdefault("TURBOFLEET_STUB_DIR", str(BUILD / "python"))

from cluster import grpc, image_service_pb2, signal, wait_until  # noqa: E402
from fleet import CallClient, Fleet, JobClient, Recipe, error_details  # noqa: E402
from postgres import PostgresServer  # noqa: E402

ENGINE = ["--simulated", "image_time=20ms", "--batch-size", "4", "--encoder-threads", "1"]
KILL_WORKER_SECONDS = 2.0
TAKE_OVER_SECONDS_MAX = 8.0
READY_SECONDS_MAX = 3.0
FINISH_SECONDS_MAX = 150  # For what is running when the chaos ends.


def calm_recipes():
    """Some jobs, and calls, with the digests of their images."""
    jobs = [Recipe(1, prompts=3, count=400), Recipe(2, prompts=1, count=1_500)]
    calls = [Recipe(3, prompts=2, count=20, image_format=image_service_pb2.IMAGE_FORMAT_PNG)]
    with Fleet(workers=2, worker_arguments=["--simulated", "image_time=0ms"]) as fleet:
        stub = fleet.images(0)
        wait_until(lambda: has_workers(stub), "the calm cluster's workers")
        for recipe in jobs + calls:
            recipe.run_calmly(stub)
    return jobs, calls


def has_workers(stub):
    try:
        next(iter(stub.GenerateImages(image_service_pb2.GenerateImagesRequest(prompts=["x"], count=1), timeout=10)))
    except grpc.RpcError:
        return False
    return True


class Chaos:
    """A fleet under load, what happens to it, and what came of it. Use as a context manager."""

    def __init__(self, fleet, recipes, rng, job_clients=2, call_clients=1):
        self.fleet, self.rng = fleet, rng
        self.stop = threading.Event()
        self.events = collections.Counter()
        self.seconds = collections.defaultdict(list)
        jobs, calls = recipes
        self.clients = [JobClient(fleet, number, jobs, self.stop) for number in range(job_clients)]
        self.clients += [CallClient(fleet, number, calls, self.stop) for number in range(call_clients)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        wait_until(lambda: all(client.counts["images"] > 0 for client in self.clients), "the first images")
        return self

    def __exit__(self, *_):
        self.stop.set()

    def pause(self, seconds):
        """Time for the load. Ends early if a client has failed."""
        wait = threading.Event()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.problems():
            wait.wait(min(0.1, max(0.0, deadline - time.monotonic())))

    def restart_worker(self, name):
        self.fleet.kill(name)
        self.fleet.start_worker(name)
        self.events["workers killed"] += 1

    def restart_coordinator(self, name):
        self.fleet.kill(name)
        self.seconds["ready again"].append(self.fleet.start_coordinator(name))
        self.events["coordinators killed"] += 1

    def finish(self):
        """Lets clients end what they have begun. Fails if one cannot."""
        self.stop.set()
        deadline = time.monotonic() + FINISH_SECONDS_MAX
        for client in self.clients:
            client.join(max(0.0, deadline - time.monotonic()))
            if client.is_alive():
                client.problems.append(f"client {client.number} did not end: {dict(client.counts)}; {self.running()}")

    def running(self):
        """What the cluster says of the jobs that have not ended."""
        request = image_service_pb2.ListJobsRequest(state=image_service_pb2.Job.STATE_RUNNING)
        try:
            jobs = self.fleet.images(0).ListJobs(request, timeout=10).jobs
        except grpc.RpcError as error:
            return error
        return [(job.request_id, job.images_completed, job.image_count, job.waits_for_release) for job in jobs]

    def problems(self):
        return [problem for client in self.clients for problem in client.problems]

    def counts(self):
        return sum((client.counts for client in self.clients), collections.Counter())

    def report(self):
        counts = self.counts()
        rows = {name: counts[name] for name in ["jobs", "calls", "images", "lost", "duplicate", "different",
                                                "rendered_again", "resumed"]}
        rows.update(sorted(self.events.items()))
        for name, seconds in self.seconds.items():
            rows[f"{name}, s"] = f"{sorted(seconds)[len(seconds) // 2]:.2f} median, {max(seconds):.2f} at most"
        return rows


def kill_at_random(recipes, rng, seconds):
    """SQLite, one coordinator: workers are killed every 2 s, the coordinator at random."""
    with Fleet(workers=8, worker_arguments=ENGINE) as fleet:
        with Chaos(fleet, recipes, rng) as chaos:
            begin = time.monotonic()
            coordinator_at = rng.uniform(2.0, 5.0)
            worker_at = KILL_WORKER_SECONDS
            while time.monotonic() - begin < seconds and not chaos.problems():
                chaos.pause(min(worker_at, coordinator_at) - (time.monotonic() - begin))
                if worker_at < coordinator_at:
                    chaos.restart_worker(rng.choice(fleet.worker_names))
                    worker_at += KILL_WORKER_SECONDS
                else:
                    chaos.restart_coordinator("coordinator-0")
                    coordinator_at = time.monotonic() - begin + rng.uniform(2.0, 8.0)
            chaos.finish()
        check_folder(fleet, chaos)
    return chaos


def check_folder(fleet, chaos):
    """Ends the coordinator and looks at what it leaves."""
    if fleet.end("coordinator-0") != 0:
        chaos.clients[0].problems.append("the coordinator did not end well: " + tail(fleet, "coordinator-0"))
    with contextlib.closing(sqlite3.connect(fleet.data_dir / "jobs.sqlite")) as database:
        answer = database.execute("pragma integrity_check").fetchall()
    if answer != [("ok",)]:
        chaos.clients[0].problems.append(f"the database is broken: {answer}")


def tail(fleet, name):
    return fleet.programs[name].output()[-1500:]


def lose_coordinators(recipes, rng, seconds):
    """PostgreSQL, three coordinators: one after the other is killed or paused, and the database goes away."""
    with PostgresServer() as database, \
            Fleet(workers=6, coordinators=3, database=database.conninfo, worker_arguments=ENGINE) as fleet:
        with Chaos(fleet, recipes, rng, job_clients=3) as chaos:
            begin = time.monotonic()
            names = list(fleet.addresses)
            while not chaos.problems():
                lose_one(chaos, database, rng.choice(names), paused=False)
                lose_one(chaos, database, rng.choice(names), paused=True)
                interrupt_database(chaos, database, rng.uniform(2.0, 4.0))
                if time.monotonic() - begin > seconds:
                    break
                interrupt_database(chaos, database, rng.uniform(6.0, 12.0))
            chaos.finish()
        for name in names:
            if fleet.end(name) != 0:
                chaos.clients[0].problems.append(f"{name} did not end well: {tail(fleet, name)}")
    return chaos


def lose_one(chaos, database, name, paused):
    """A coordinator falls silent, the others take over, and it comes back: the paused one only to end."""
    fleet = chaos.fleet
    life = database.ask(f"select incarnation from coordinator where id = '{name}'")
    begin = time.monotonic()
    if paused:
        fleet.programs[name].send(signal.SIGSTOP)
    else:
        fleet.kill(name)
    wait_until(lambda: database.ask(f"select (select count(*) from coordinator where incarnation = '{life}') + "
                                    f"(select count(*) from shard where owner = '{life}' and not done)") == "0",
               f"{name}'s shards to be taken over")
    chaos.seconds["take-over"].append(time.monotonic() - begin)
    if paused:
        # It wakes after the others have worked on what was its own for a while.
        chaos.pause(chaos.rng.uniform(2.0, 10.0))
        fleet.programs[name].send(signal.SIGCONT)
        code = fleet.programs[name].wait()
        if code != 1:
            chaos.clients[0].problems.append(f"{name}, fenced, ended with {code}: {tail(fleet, name)}")
    chaos.events["coordinators paused" if paused else "coordinators killed"] += 1
    fleet.start_coordinator(name)
    chaos.pause(2.0)


def interrupt_database(chaos, database, seconds):
    database.stop()
    chaos.pause(seconds)
    database.start()
    chaos.events["database restarts"] += 1
    chaos.pause(2.0)
    for name in chaos.fleet.addresses:
        if not chaos.fleet.programs[name].alive():
            chaos.clients[0].problems.append(f"{name} did not survive the database's restart: "
                                             + tail(chaos.fleet, name))


def fill_disk(recipes, rng, seconds):
    """SQLite on a small disk: it is filled, and room comes back, again and again."""
    with tempfile.TemporaryDirectory(prefix="turbofleet-disk-") as disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", disk], check=True)
        try:
            return fill_mounted_disk(pathlib.Path(disk), recipes, rng, seconds)
        finally:
            subprocess.run(["umount", disk], check=True)


def fill_mounted_disk(disk, recipes, rng, seconds):
    reserve = rng.choice([1, 8 << 20])  # With one byte the system says that the disk is full, also to the database.
    with Fleet(workers=4, data_dir=disk / "data", worker_arguments=ENGINE,
               coordinator_arguments=["--disk-free-min", reserve]) as fleet:
        with Chaos(fleet, recipes, rng, job_clients=1) as chaos:
            begin = time.monotonic()
            while not chaos.problems():
                ballast = disk / "ballast"
                fill(ballast)
                wait_until(lambda: refuses_jobs(fleet.images(0)), "a job to be refused")
                chaos.pause(rng.uniform(0.5, 3.0))
                ballast.unlink()
                chaos.events["disk filled"] += 1
                wait_until(lambda: not refuses_jobs(fleet.images(0)), "jobs to be taken again")
                if time.monotonic() - begin > seconds:
                    break
                chaos.pause(2.0)
            chaos.finish()
        check_folder(fleet, chaos)
    return chaos


def fill(path):
    """Until there is no room for one byte more."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def refuses_jobs(stub):
    """Whether a job is refused for want of room. What is taken is cancelled."""
    spec = image_service_pb2.JobSpec(images=image_service_pb2.GenerateImagesRequest(prompts=["probe"], count=1))
    try:
        job = stub.CreateJob(iter([image_service_pb2.CreateJobRequest(job=spec)]), timeout=30)
    except grpc.RpcError as error:
        info = error_details(error)[0]
        if info is None or info.reason != "STORE_UNAVAILABLE":
            raise
        return True
    with contextlib.suppress(grpc.RpcError):
        stub.CancelJob(image_service_pb2.CancelJobRequest(name=job.name), timeout=30)
    return False


def restart_in_turn(recipes, rng, seconds):
    """PostgreSQL, two coordinators: every process is asked to end, one after the other, and started again."""
    with PostgresServer() as database, \
            Fleet(workers=4, coordinators=2, database=database.conninfo, worker_arguments=ENGINE) as fleet:
        with Chaos(fleet, recipes, rng) as chaos:
            begin = time.monotonic()
            while not chaos.problems():
                for name in [*fleet.worker_names, *fleet.addresses]:
                    asked = time.monotonic()
                    code = fleet.end(name)
                    chaos.seconds["end"].append(time.monotonic() - asked)
                    if code != 0:
                        chaos.clients[0].problems.append(f"{name} ended with {code}: {tail(fleet, name)}")
                    if name in fleet.addresses:
                        fleet.start_coordinator(name)
                    else:
                        fleet.start_worker(name)
                    chaos.events["restarts"] += 1
                if time.monotonic() - begin > seconds:
                    break
            chaos.finish()
    return chaos


SCENARIOS = {"kill": kill_at_random, "coordinators": lose_coordinators, "disk": fill_disk, "restart": restart_in_turn}


def may_mount():
    """Only root may, and not in every container."""
    return subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False,
                          capture_output=True).returncode == 0


class ChaosTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.recipes = calm_recipes()

    def check(self, scenario, seconds):
        chaos = SCENARIOS[scenario](self.recipes, random.Random(scenario), seconds)
        report = chaos.report()
        print(report, file=sys.stderr)
        self.assertEqual(chaos.problems(), [])
        self.assertEqual((report["lost"], report["duplicate"], report["different"]), (0, 0, 0))
        return chaos

    def test_kill_9_of_workers_and_the_coordinator(self):
        chaos = self.check("kill", seconds=15)
        self.assertGreater(chaos.events["coordinators killed"], 0)
        self.assertGreater(chaos.events["workers killed"], 0)
        self.assertLessEqual(sorted(chaos.seconds["ready again"])[0], READY_SECONDS_MAX)

    def test_coordinators_that_are_killed_or_paused_and_a_database_that_restarts(self):
        chaos = self.check("coordinators", seconds=0)
        self.assertLessEqual(min(chaos.seconds["take-over"]), TAKE_OVER_SECONDS_MAX)

    @unittest.skipUnless(may_mount(), "a small disk cannot be mounted here, so what happens on a full one is not tested")
    def test_a_full_disk(self):
        self.check("disk", seconds=0)

    def test_a_rolling_restart(self):
        self.check("restart", seconds=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for all scenarios together")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    names = options.scenario or list(SCENARIOS)
    print(f"seed {options.seed}", flush=True)
    recipes = calm_recipes()
    failed = False
    for name in names:
        chaos = SCENARIOS[name](recipes, random.Random(f"{options.seed} {name}"), options.minutes * 60 / len(names))
        report = chaos.report()
        print(f"\n{name}: {SCENARIOS[name].__doc__}")
        for row, value in report.items():
            print(f"  {row:22} {value}")
        for problem in chaos.problems():
            print(f"  PROBLEM {problem}")
        sys.stdout.flush()
        failed |= bool(chaos.problems() or report["lost"] or report["duplicate"] or report["different"])
    return failed


if __name__ == "__main__":
    sys.exit(main())
