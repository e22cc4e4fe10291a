"""The page of metrics says what running programs export: no more, no less, and of the same kind."""

import re
import unittest
import urllib.request

from cluster import PATIENCE_SECONDS, REPOSITORY, Cluster, grpc, wait_until


def exported(text):
    """{name: kind} of a /metrics page."""
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


def documented():
    page = (REPOSITORY / "docs" / "reference" / "metrics.md").read_text()
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))


class MetricsTest(unittest.TestCase):
    def test_the_page_and_the_programs_agree(self):
        # Images that succeed, images that are tried again and fail, and a request that is refused: what is only exported
        # once it has happened has happened.
        with Cluster(workers=2, worker_arguments=["--simulated", "image_time=1ms,failure_rate=0.3"]) as cluster:
            _, images, failures = cluster.generate(prompts=["x"], seed=0, count=60)
            self.assertTrue(images and failures)
            with self.assertRaises(grpc.RpcError):
                cluster.generate(prompts=["x"], steps=9)
            found = exported(cluster.http("/metrics"))
            address = wait_until(
                lambda: re.search(r"(127\.0\.0\.1:\d+)", cluster.folder.joinpath("worker-0.http").read_text()),
                "the worker's address")[1]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_SECONDS) as answer:
                found |= exported(answer.read().decode())
        self.assertEqual(found, documented())


if __name__ == "__main__":
    unittest.main()
