"""The demo model through real processes: it draws what prompts say that it was not trained on, and keeps the seed
contract between workers, batches and restarts."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from cluster import DEMO_MODEL, REPOSITORY, Cluster

CHECKER = REPOSITORY / "worker" / "demo_model" / "checker.py"
# What the model card promises, at one step on prompts that training never saw.
BARS = {"background": 0.99, "colour": 0.98, "shape": 0.90, "relation": 0.95, "all": 0.85}


def demo_cluster(workers=2, arguments=()):
    return Cluster(workers=workers, engine=("--model", DEMO_MODEL, "--device", "cpu", "--precision", "float32"),
                   worker_arguments=["--threads", "1", *arguments])


class DemoModelTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def manifest(self, name):
        return [json.loads(line) for line in (self.folder / name / "manifest.jsonl").read_text().splitlines()]

    def test_it_draws_what_held_out_prompts_say(self):
        prompts = subprocess.run([sys.executable, CHECKER, "--prompts", "240", "--seed", "1"], check=True,
                                 capture_output=True, text=True).stdout
        (self.folder / "prompts.jsonl").write_text(prompts)
        with demo_cluster() as cluster:
            result = cluster.turbofleet("batch", self.folder / "prompts.jsonl", "--steps", "1", "--out",
                                        self.folder / "out", timeout=600)
            self.assertEqual(result.returncode, 0, result.stderr)
        checked = subprocess.run([sys.executable, CHECKER, self.folder / "out" / "manifest.jsonl", self.folder / "out",
                                  "--verbose", *(f"--min-{name}={bar}" for name, bar in BARS.items())],
                                 capture_output=True, text=True)
        print(checked.stdout, file=sys.stderr)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_the_same_seeds_give_the_same_bytes_on_other_workers_and_in_other_batches(self):
        arguments = ["generate", "a red circle on a blue background", "--seed", "11", "--count", "12"]
        with demo_cluster(workers=1, arguments=["--batch-size", "1"]) as cluster:
            self.assertEqual(cluster.turbofleet(*arguments, "--out", self.folder / "alone").returncode, 0)
        with demo_cluster(workers=3, arguments=["--batch-size", "5"]) as cluster:
            self.assertEqual(cluster.turbofleet(*arguments, "--out", self.folder / "spread").returncode, 0)
            self.assertEqual(cluster.turbofleet("verify", self.folder / "alone" / "manifest.jsonl").returncode, 0)
        digests = [{line["seed"]: line["sha256"] for line in self.manifest(name)} for name in ["alone", "spread"]]
        self.assertEqual(len(digests[0]), 12)
        self.assertEqual(digests[0], digests[1])

    def test_steps_sizes_and_start_pictures_all_work(self):
        with demo_cluster(workers=1) as cluster:
            first = cluster.turbofleet("generate", "a green square on a white background", "--seed", "4", "--steps", "4",
                                       "--out", self.folder / "first")
            self.assertEqual(first.returncode, 0, first.stderr)
            start = self.folder / "first" / self.manifest("first")[0]["path"]
            for name, extra in {"odd": ["--size", "136x72"], "image": ["--init-image", start, "--strength", "0.5"]}.items():
                result = cluster.turbofleet("generate", "a blue star on a white background", "--steps", "2", *extra, "--out",
                                            self.folder / name)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(len(self.manifest(name)), 1)


if __name__ == "__main__":
    unittest.main()
