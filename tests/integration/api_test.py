"""The public API as a client in another language meets it: made only from the public protos."""

import hashlib
import io
import struct
import threading
import unittest
import zlib

from cluster import (Cluster, error_details, grpc, image_service_pb2, wait_until)
from PIL import Image as Picture


def png(width=32, height=32):
    """A small real PNG."""
    buffer = io.BytesIO()
    Picture.new("RGB", (width, height), (200, 30, 40)).save(buffer, "PNG")
    return buffer.getvalue()


class GenerateTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(workers=2))

    def test_every_image_comes_once_with_its_seed_and_its_pixels_digest(self):
        accepted, images, failures = self.cluster.generate(
            prompts=["a", "b", "c"], seed=100, count=5, width=64, height=72, format="IMAGE_FORMAT_RAW",
            )
        self.assertEqual(failures, {})
        self.assertEqual(accepted.image_count, 15)
        self.assertEqual(list(accepted.seeds), [100, 101, 102, 103, 104])
        self.assertEqual(sorted(images), list(range(15)))
        for index, image in images.items():
            self.assertEqual((image.prompt_index, image.seed), (index // 5, 100 + index % 5))
            self.assertEqual(len(image.content), 64 * 72 * 3)
            self.assertEqual(hashlib.sha256(image.content).hexdigest(), image.pixel_sha256)
            self.assertEqual(image.model_digest, accepted.model_digest)
            self.assertTrue(image.name.startswith(accepted.job + "/images/"))
        self.assertEqual(len({image.pixel_sha256 for image in images.values()}), 15)

    def test_the_same_request_gives_the_same_pixels_in_every_format(self):
        digests = {}
        for name in ["PNG", "JPEG", "WEBP", "RAW"]:
            _, images, _ = self.cluster.generate(prompts=["x"], seeds=[7, 8, 9], format=f"IMAGE_FORMAT_{name}")
            digests[name] = [images[i].pixel_sha256 for i in range(3)]
            if name != "RAW":
                for image in images.values():
                    picture = Picture.open(io.BytesIO(image.content))
                    self.assertEqual(picture.format, name)
                    self.assertEqual(picture.size, (image.width, image.height))
            if name == "PNG":
                pixels = Picture.open(io.BytesIO(images[0].content)).convert("RGB").tobytes()
                self.assertEqual(hashlib.sha256(pixels).hexdigest(), images[0].pixel_sha256)
        self.assertEqual(len({tuple(found) for found in digests.values()}), 1)

    def test_files_carry_the_parameters_unless_told_otherwise(self):
        _, images, _ = self.cluster.generate(prompts=["a red circle"], seed=5)
        text = Picture.open(io.BytesIO(images[0].content)).text["parameters"]
        self.assertIn("a red circle", text)
        self.assertIn("Seed: 5", text)
        _, images, _ = self.cluster.generate(prompts=["a red circle"], seed=5, embed_metadata=False)
        self.assertNotIn("parameters", Picture.open(io.BytesIO(images[0].content)).text)

    def test_one_call_is_spread_over_all_workers(self):
        _, images, _ = self.cluster.generate(prompts=["spread"], count=64)
        self.assertEqual({image.worker for image in images.values()}, {"workers/worker-0", "workers/worker-1"})

    def test_an_unset_seed_is_drawn_and_told(self):
        first, _, _ = self.cluster.generate(prompts=["x"])
        second, _, _ = self.cluster.generate(prompts=["x"])
        self.assertNotEqual(list(first.seeds), list(second.seeds))

    def test_image_to_image_starts_from_the_picture(self):
        _, plain, _ = self.cluster.generate(prompts=["x"], seed=1, steps=2, width=64, height=64)
        accepted, images, failures = self.cluster.generate(
            prompts=["x"], seed=1, width=64, height=64, init_image=png(), strength=0.5)
        self.assertEqual((accepted.steps, accepted.strength), (2, 0.5))
        self.assertEqual(failures, {})
        self.assertNotEqual(images[0].pixel_sha256, plain[0].pixel_sha256)

    def test_a_damaged_start_picture_fails_its_images_by_name(self):
        _, images, failures = self.cluster.generate(prompts=["x"], count=3, init_image=png()[:60])
        self.assertEqual(images, {})
        self.assertEqual(sorted(failures), [0, 1, 2])
        for failure in failures.values():
            self.assertEqual(failure.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
            self.assertIn("init_image", failure.message)

    def test_a_decompression_bomb_is_refused_and_costs_nothing(self):
        # 60,000 x 60,000 pixels in a file of a few hundred bytes: only its header may ever be read.
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        bomb = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(b"\0" * 100000)) + chunk(b"IEND", b""))
        _, images, failures = self.cluster.generate(prompts=["x"], init_image=bomb)
        self.assertEqual(images, {})
        self.assertIn("init_image", failures[0].message)

    def test_bad_requests_are_refused_by_field_and_the_server_lives(self):
        ok = {"prompts": ["x"]}
        cases = [
            ("prompts", {"prompts": []}),
            ("prompts[0]", {"prompts": ["x" * 4097]}),
            ("negative_prompt", {**ok, "negative_prompt": "y"}),
            ("seed", {**ok, "seed": 2**32}),
            ("count", {**ok, "count": 0}),
            ("seed", {**ok, "seeds": [1], "seed": 2}),
            ("seeds[1]", {**ok, "seeds": [1, 2**32]}),
            ("width", {**ok, "width": 65}),
            ("height", {**ok, "height": 2048}),
            ("steps", {**ok, "steps": 5}),
            ("guidance_scale", {**ok, "guidance_scale": float("nan")}),
            ("init_image", {**ok, "init_image": b"not a picture"}),
            ("strength", {**ok, "strength": 0.5}),
            ("quality", {**ok, "quality": 50}),
            ("format", {**ok, "format": 99}),
            ("vae", {**ok, "vae": 99}),
            ("embed_metadata", {**ok, "embed_metadata": True, "format": "IMAGE_FORMAT_RAW"}),
        ]
        for field, fields in cases:
            with self.subTest(field=field):
                with self.assertRaises(grpc.RpcError) as caught:
                    self.cluster.generate(**fields)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
                info, details = error_details(caught.exception)
                self.assertEqual((info.domain, info.reason), ("turbofleet.dev", "INVALID_FIELD"))
                self.assertEqual([v.field for v in details["BadRequest"].field_violations], [field])
                self.assertIn(field, caught.exception.details())
        self.assertTrue(self.cluster.coordinator.alive())
        self.assertEqual(len(self.cluster.generate(**ok)[1]), 1)

    def test_what_no_worker_serves_is_refused_with_a_reason(self):
        for fields, reason in [({"model": "no-such-model"}, "MODEL_NOT_SERVED"), ({"vae": "VAE_TINY"}, "VAE_NOT_SERVED")]:
            with self.assertRaises(grpc.RpcError) as caught:
                self.cluster.generate(prompts=["x"], **fields)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
            self.assertEqual(error_details(caught.exception)[0].reason, reason)

    def test_workers_and_cluster_tell_what_they_are(self):
        workers = self.cluster.list_workers()
        self.assertEqual([worker.name for worker in workers], ["workers/worker-0", "workers/worker-1"])
        state = self.cluster.state()
        self.assertEqual(state.workers_ready, 2)
        self.assertEqual([model.workers for model in state.models], [2])

    def test_metrics_and_health_are_served(self):
        before = self.cluster.metric("turbofleet_images_total", result="completed")
        self.cluster.generate(prompts=["x"], count=4)
        self.assertEqual(self.cluster.metric("turbofleet_images_total", result="completed"), before + 4)
        self.assertIn("turbofleet_build_info", self.cluster.http("/metrics"))
        self.assertEqual(self.cluster.http("/readyz").strip(), "ready")


class CancelTest(unittest.TestCase):
    def test_dropping_a_call_frees_the_workers_for_others(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "image_time=50ms"]) as cluster:
            request = image_service_pb2.GenerateImagesRequest(prompts=["long"], count=5000)
            call = cluster.images().GenerateImages(request)
            for event in call:
                if event.WhichOneof("event") == "image":
                    break
            call.cancel()
            wait_until(lambda: cluster.state().images_queued == 0, "the queue to empty")
            wait_until(lambda: cluster.state().images_leased == 0, "the worker to let go")
            self.assertEqual(len(cluster.generate(prompts=["next"])[1]), 1)

    def test_a_passed_deadline_ends_the_call_and_frees_the_workers(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "image_time=50ms"]) as cluster:
            with self.assertRaises(grpc.RpcError) as caught:
                cluster.generate(timeout=1, prompts=["long"], count=5000)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            wait_until(lambda: cluster.state().images_queued == 0, "the queue to empty")

    def test_a_full_queue_refuses_with_a_time_to_come_back(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "image_time=1s"],
                     coordinator_arguments=["--images-queued-max", "100", "--images-per-job-max", "100"]) as cluster:
            held = cluster.images().GenerateImages(image_service_pb2.GenerateImagesRequest(prompts=["x"], count=90))
            self.assertEqual(next(held).WhichOneof("event"), "accepted")
            with self.assertRaises(grpc.RpcError) as caught:
                cluster.generate(prompts=["x"], count=90)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            info, details = error_details(caught.exception)
            self.assertEqual(info.reason, "QUEUE_FULL")
            self.assertGreater(details["RetryInfo"].retry_delay.ToTimedelta().total_seconds(), 0)
            self.assertEqual(len(details["QuotaFailure"].violations), 1)
            held.cancel()

    def test_calls_without_workers_are_told_to_come_back(self):
        with Cluster(workers=0) as cluster:
            with self.assertRaises(grpc.RpcError) as caught:
                cluster.generate(prompts=["x"])
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            info, details = error_details(caught.exception)
            self.assertEqual(info.reason, "NO_WORKERS")
            self.assertIn("RetryInfo", details)


class ConcurrencyTest(unittest.TestCase):
    def test_many_clients_at_once_each_get_exactly_theirs(self):
        with Cluster(workers=3, worker_arguments=["--simulated", "image_time=1ms"]) as cluster:
            expected = {p: cluster.generate(prompts=[p], seed=0, count=20)[1] for p in ["p0", "p1"]}
            found, errors = {}, []

            def run(number):
                try:
                    found[number] = cluster.generate(prompts=[f"p{number % 2}"], seed=0, count=20)[1]
                except BaseException as error:  # Reported by the main thread.
                    errors.append(error)
            threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(errors, [])
            for number, images in found.items():
                self.assertEqual({i: image.pixel_sha256 for i, image in images.items()},
                                 {i: image.pixel_sha256 for i, image in expected[f"p{number % 2}"].items()})


if __name__ == "__main__":
    unittest.main()
