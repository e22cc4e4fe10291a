"""Processes die, stop and come back in the middle of a job; every image still ends exactly once, with the right pixels."""

import threading
import unittest

from cluster import Cluster, grpc, image_service_pb2, signal, wait_until

SLOW = ["--simulated", "image_time=20ms"]


class Run(threading.Thread):
    """A GenerateImages call that can be watched while it runs."""

    def __init__(self, cluster, **fields):
        super().__init__()
        self.cluster, self.fields = cluster, fields
        self.images, self.failures, self.error, self.doubles = {}, {}, None, []
        self.start()

    def run(self):
        request = image_service_pb2.GenerateImagesRequest(**self.fields)
        try:
            for event in self.cluster.images().GenerateImages(request, timeout=120):
                kind = event.WhichOneof("event")
                if kind == "accepted":
                    continue
                ended = getattr(event, kind)
                if ended.index in self.images or ended.index in self.failures:
                    self.doubles.append(ended.index)
                (self.images if kind == "image" else self.failures)[ended.index] = ended
        except grpc.RpcError as error:
            self.error = error

    def digests(self):
        return {index: image.pixel_sha256 for index, image in self.images.items()}


class FaultsTest(unittest.TestCase):
    def check(self, run, calm):
        run.join()
        self.assertIsNone(run.error)
        self.assertEqual((run.doubles, run.failures), ([], {}))
        self.assertEqual(run.digests(), calm)

    def calm_digests(self, cluster, **fields):
        return {index: image.pixel_sha256 for index, image in cluster.generate(**fields)[1].items()}

    def test_kill_9_of_workers_in_the_middle_of_a_job_loses_nothing(self):
        fields = {"prompts": ["storm"], "seed": 1000, "count": 150}
        with Cluster(workers=3, worker_arguments=SLOW) as cluster:
            calm = self.calm_digests(cluster, **fields)
            self.assertEqual(len(calm), 150)
            run = Run(cluster, **fields)
            wait_until(lambda: len(run.images) >= 20, "the first images")
            cluster.workers["worker-0"].kill()
            wait_until(lambda: len(run.images) >= 60, "images after the first death")
            cluster.workers["worker-1"].kill()
            self.check(run, calm)
            self.assertTrue(any(image.attempt > 1 for image in run.images.values()), "nothing was rendered again")
            self.assertEqual(cluster.state().workers_ready, 1)

    def test_a_worker_that_falls_silent_loses_its_work_to_another(self):
        fields = {"prompts": ["silence"], "seed": 5, "count": 60}
        with Cluster(workers=2, worker_arguments=SLOW, coordinator_arguments=["--session-timeout", "2s"]) as cluster:
            calm = self.calm_digests(cluster, **fields)
            run = Run(cluster, **fields)
            wait_until(lambda: len(run.images) >= 10, "the first images")
            cluster.workers["worker-0"].send(signal.SIGSTOP)
            self.check(run, calm)
            # It wakes, delivers what nobody wants any more, and is welcome again.
            cluster.workers["worker-0"].send(signal.SIGCONT)
            cluster.wait_for_workers(2)
            self.assertEqual(self.calm_digests(cluster, **fields), calm)

    def test_sigterm_drains_a_worker_without_losing_or_repeating_work(self):
        fields = {"prompts": ["drain"], "seed": 9, "count": 80}
        with Cluster(workers=2, worker_arguments=SLOW) as cluster:
            calm = self.calm_digests(cluster, **fields)
            run = Run(cluster, **fields)
            wait_until(lambda: len(run.images) >= 10, "the first images")
            cluster.workers["worker-0"].send(signal.SIGTERM)
            self.check(run, calm)
            self.assertEqual(cluster.workers["worker-0"].wait(), 0)
            self.assertEqual({image.attempt for image in run.images.values()}, {1})

    def test_a_worker_that_joins_late_takes_part(self):
        with Cluster(workers=1, worker_arguments=SLOW) as cluster:
            run = Run(cluster, prompts=["late"], count=150)
            wait_until(lambda: len(run.images) >= 5, "the first images")
            cluster.start_worker("late")
            run.join()
            self.assertIn("workers/late", {image.worker for image in run.images.values()})

    def test_workers_come_back_to_a_coordinator_that_was_killed(self):
        fields = {"prompts": ["again"], "seed": 3, "count": 10}
        with Cluster(workers=2) as cluster:
            calm = self.calm_digests(cluster, **fields)
            cluster.coordinator.kill()
            cluster.start_coordinator()
            cluster.wait_for_workers(2)
            self.assertEqual(self.calm_digests(cluster, **fields), calm)

    def test_sigterm_lets_the_coordinator_finish_what_it_has(self):
        with Cluster(workers=2, worker_arguments=SLOW) as cluster:
            run = Run(cluster, prompts=["last"], count=80)
            wait_until(lambda: len(run.images) >= 5, "the first images")
            cluster.coordinator.send(signal.SIGTERM)
            run.join()
            self.assertIsNone(run.error)
            self.assertEqual(len(run.images), 80)
            self.assertEqual(cluster.coordinator.wait(), 0)

    def test_images_that_fail_are_named_and_the_others_come(self):
        with Cluster(workers=2, worker_arguments=["--simulated", "image_time=1ms,failure_rate=0.2"]) as cluster:
            _, images, failures = cluster.generate(prompts=["partly"], seed=0, count=100)
            self.assertEqual(sorted([*images, *failures]), list(range(100)))
            self.assertTrue(5 < len(failures) < 45, len(failures))
            for failure in failures.values():
                self.assertEqual(failure.code, grpc.StatusCode.INTERNAL.value[0])
                self.assertEqual(failure.attempts, 3)

    def test_workers_that_crash_again_and_again_fail_their_images_and_no_others(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "crash_rate=1"]) as cluster:
            run = Run(cluster, prompts=["poison"], count=1)
            for number in range(1, 3):
                wait_until(lambda: all(not w.alive() for w in cluster.workers.values()), "the crash")
                cluster.start_worker(f"next-{number}")
            run.join()
            self.assertIsNone(run.error)
            self.assertEqual(run.failures[0].reason, "IMAGE_POISONOUS")
            self.assertEqual(run.failures[0].attempts, 3)


if __name__ == "__main__":
    unittest.main()
