"""Jobs, as the command line makes and watches them, through the death of every program that takes part."""

import json
import pathlib
import subprocess
import tempfile
import unittest

from cluster import BIN_DIR, Cluster, wait_until

PROMPTS = 30
SEEDS = 100
IMAGES = PROMPTS * SEEDS


def lines(path):
    """The whole lines: a process that writes, or that was killed, may have begun another."""
    text = pathlib.Path(path).read_text() if pathlib.Path(path).exists() else ""
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


class JobsTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.prompts = self.folder / "prompts.txt"
        self.prompts.write_text("".join(f"prompt {number}\n" for number in range(PROMPTS)))

    def run_ok(self, cluster, *arguments):
        result = cluster.turbofleet(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def create(self, cluster, out, *arguments, count=SEEDS):
        return self.run_ok(cluster, "job", "create", "--prompts", self.prompts, "--count", count, "--seed", 7, "--size",
                           "64x64", "--out", out, *arguments)

    def start_watch(self, cluster, job, out, *arguments):
        log = self.enterContext(open(self.folder / "watch.log", "ab"))
        process = subprocess.Popen(
            [BIN_DIR / "turbofleet", "--coordinator", cluster.address, "job", "watch", job, "--out", out, *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait()))
        return process

    def wait_for_pictures(self, out, count):
        wait_until(lambda: len(lines(out / "manifest.jsonl")) >= count, f"{count} pictures")

    def show(self, cluster, job):
        return json.loads(self.run_ok(cluster, "job", "show", "--json", job))

    def digests(self, out):
        """By index; fails if the folder has one twice, or a line without its file."""
        digests = {}
        for line in lines(out / "manifest.jsonl"):
            self.assertNotIn(line["index"], digests)
            self.assertTrue((out / line["path"]).exists())
            digests[line["index"]] = line["sha256"]
        self.assertEqual(len(list(out.glob("*.png"))), len(digests))
        return digests

    def test_each_picture_comes_once_whoever_dies(self):
        calm, storm = self.folder / "calm", self.folder / "storm"
        with Cluster(workers=2) as cluster:
            self.create(cluster, calm, "--watch")
        with Cluster(workers=3, worker_arguments=["--simulated", "image_time=10ms"]) as cluster:
            job = self.create(cluster, storm)
            watcher = self.start_watch(cluster, job, storm)
            self.wait_for_pictures(storm, IMAGES // 10)
            watcher.kill()
            watcher.wait()
            had = len(lines(storm / "manifest.jsonl"))
            self.assertLess(had, IMAGES)

            watcher = self.start_watch(cluster, job, storm)
            self.wait_for_pictures(storm, max(IMAGES // 4, had + 1))
            cluster.coordinator.kill()
            cluster.start_coordinator()
            self.wait_for_pictures(storm, len(lines(storm / "manifest.jsonl")) + IMAGES // 10)
            cluster.workers["worker-1"].kill()
            self.assertEqual(watcher.wait(180), 0, (self.folder / "watch.log").read_text())
            self.assertEqual(self.show(cluster, job)["state"], "completed")
        self.assertEqual(sorted(self.digests(storm)), list(range(IMAGES)))
        self.assertEqual(self.digests(storm), self.digests(calm))
        self.assertFalse((storm / "errors.jsonl").exists())

    def test_a_job_goes_on_while_nobody_watches(self):
        with Cluster(workers=2) as cluster:
            job = self.create(cluster, self.folder / "out", count=10)
            cluster.coordinator.kill()
            cluster.start_coordinator()
            wait_until(lambda: self.show(cluster, job)["state"] == "completed", "the job to end")
            self.assertEqual(self.show(cluster, job)["images_completed"], 10 * PROMPTS)
            self.run_ok(cluster, "job", "watch", job, "--out", self.folder / "out")
            self.assertEqual(sorted(self.digests(self.folder / "out")), list(range(10 * PROMPTS)))
            self.run_ok(cluster, "verify", self.folder / "out" / "manifest.jsonl")
            # Elsewhere the prompts are not known, but the pictures are the same.
            self.run_ok(cluster, "job", "watch", job, "--out", self.folder / "elsewhere")
            self.assertEqual(self.digests(self.folder / "elsewhere"), self.digests(self.folder / "out"))
            self.assertEqual(lines(self.folder / "elsewhere" / "manifest.jsonl")[0]["prompt"], "")

    def test_ordered_pictures_come_by_index(self):
        with Cluster(workers=3, worker_arguments=["--simulated", "image_time=2ms"]) as cluster:
            job = self.create(cluster, self.folder / "out", count=20)
            watcher = self.start_watch(cluster, job, self.folder / "out", "--ordered")
            self.wait_for_pictures(self.folder / "out", 50)
            watcher.kill()
            watcher.wait()
            self.run_ok(cluster, "job", "watch", job, "--out", self.folder / "out", "--ordered")
            indexes = [line["index"] for line in lines(self.folder / "out" / "manifest.jsonl")]
            self.assertEqual(indexes, list(range(20 * PROMPTS)))

    def test_cancelled_jobs_keep_what_they_have_until_they_are_deleted(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "image_time=20ms"]) as cluster:
            job = self.create(cluster, self.folder / "out")
            wait_until(lambda: self.show(cluster, job)["images_completed"] > 10, "some pictures")
            refused = cluster.turbofleet("job", "delete", job)
            self.assertEqual(refused.returncode, 1, refused.stderr)
            self.assertEqual(json.loads(self.run_ok(cluster, "job", "cancel", job, "--json"))["state"], "cancelled")
            wait_until(lambda: cluster.state().images_queued == 0, "the queue to empty")
            # Those that were on workers may still come, or not; then the number stays.
            watched = cluster.turbofleet("job", "watch", job, "--out", self.folder / "out")
            self.assertEqual(watched.returncode, 1, watched.stderr)
            self.assertEqual(len(self.digests(self.folder / "out")), self.show(cluster, job)["images_completed"])
            # Once more is no error and no change.
            self.assertEqual(json.loads(self.run_ok(cluster, "job", "cancel", job, "--json"))["state"], "cancelled")
            self.run_ok(cluster, "job", "delete", job)
            for command in ["show", "delete", "cancel"]:
                gone = cluster.turbofleet("job", command, job)
                self.assertEqual(gone.returncode, 1, gone.stderr)

    def test_jobs_are_found_by_label_and_state(self):
        with Cluster(workers=1) as cluster:
            jobs = {}
            for number in range(3):
                jobs[number] = self.create(cluster, self.folder / str(number), "--label", f"set={number % 2}", "--label",
                                           "team=x", "--priority", "bulk", count=1)

            def listed(*arguments):
                output = self.run_ok(cluster, "job", "list", "--json", *arguments)
                return [json.loads(line)["name"] for line in output.splitlines()]

            self.assertEqual(listed(), [jobs[2], jobs[1], jobs[0]])
            self.assertEqual(listed("--label", "set=0"), [jobs[2], jobs[0]])
            self.assertEqual(listed("--label", "set=1", "--label", "team=x"), [jobs[1]])
            self.assertEqual(listed("--label", "set=1", "--label", "team=y"), [])
            self.assertEqual(listed("--limit", 1), [jobs[2]])
            wait_until(lambda: len(listed("--state", "completed")) == 3, "the jobs to end")
            self.assertEqual(listed("--state", "running"), [])
            self.assertEqual(self.show(cluster, jobs[0])["priority"], "bulk")

    def test_a_creation_with_a_name_is_one_job(self):
        with Cluster(workers=1) as cluster:
            first = self.create(cluster, self.folder / "a", "--request-id", "nightly", count=1)
            cluster.coordinator.kill()
            cluster.start_coordinator()
            self.assertEqual(self.create(cluster, self.folder / "b", "--request-id", "nightly", count=1), first)
            other = cluster.turbofleet("job", "create", "something else", "--request-id", "nightly")
            self.assertEqual(other.returncode, 1, other.stderr)

    def test_released_pictures_are_gone_from_the_coordinator(self):
        with Cluster(workers=2) as cluster:
            job = self.create(cluster, self.folder / "out", "--watch", "--release", count=10)
            self.assertEqual(sorted(self.digests(self.folder / "out")), list(range(10 * PROMPTS)))
            self.assertEqual(self.show(cluster, job)["bytes_retained"], 0)
            again = cluster.turbofleet("job", "watch", job, "--out", self.folder / "again")
            self.assertEqual(again.returncode, 1, again.stderr)
            # The folder that has them needs none of them.
            self.run_ok(cluster, "job", "watch", job, "--out", self.folder / "out")

    def test_a_job_that_takes_too_long_expires(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "image_time=50ms"]) as cluster:
            job = self.create(cluster, self.folder / "out", "--timeout", "2s")
            watched = cluster.turbofleet("job", "watch", job, "--out", self.folder / "out")
            self.assertEqual(watched.returncode, 5, watched.stderr)
            self.assertEqual(self.show(cluster, job)["state"], "expired")
            self.assertLess(len(self.digests(self.folder / "out")), IMAGES)


if __name__ == "__main__":
    unittest.main()
