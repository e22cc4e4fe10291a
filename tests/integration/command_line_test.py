"""The command line against a real cluster."""

import hashlib
import json
import pathlib
import re
import subprocess
import tempfile
import unittest

from cluster import BIN_DIR, Cluster, signal, wait_until
from PIL import Image as Picture

MANIFEST_KEYS = {"index", "prompt", "seed", "width", "height", "steps", "strength", "path", "sha256", "model_digest",
                 "worker"}


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


class CommandLineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(workers=2))

    def setUp(self):
        self.out = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "out"

    def run_ok(self, *arguments):
        result = self.cluster.turbofleet(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def test_generate_writes_pictures_a_manifest_and_a_sheet(self):
        self.run_ok("generate", "a red circle", "--count", "6", "--seed", "40", "--size", "64x80", "--out", self.out,
                    "--sheet")
        manifest = lines(self.out / "manifest.jsonl")
        self.assertEqual(sorted(line["index"] for line in manifest), list(range(6)))
        for line in manifest:
            self.assertLessEqual(MANIFEST_KEYS, set(line))
            self.assertEqual((line["prompt"], line["seed"]), ("a red circle", 40 + line["index"]))
            picture = Picture.open(self.out / line["path"])
            self.assertEqual(picture.size, (64, 80))
            self.assertEqual(hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest(), line["sha256"])
        with Picture.open(self.out / "sheet.png") as sheet:
            self.assertGreater(sheet.width, 64)
        self.assertFalse((self.out / "errors.jsonl").exists())

    def test_json_puts_one_object_per_image_on_standard_output_and_nothing_else(self):
        result = self.run_ok("generate", "x", "--count", "3", "--json", "--out", self.out)
        self.assertEqual(len([json.loads(line) for line in result.stdout.splitlines()]), 3)

    def test_verify_accepts_what_was_made_and_finds_what_was_changed(self):
        self.run_ok("generate", "x", "--count", "3", "--seed", "1", "--out", self.out)
        self.run_ok("verify", self.out / "manifest.jsonl")
        manifest = lines(self.out / "manifest.jsonl")
        manifest[1]["sha256"] = "0" * 64
        (self.out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in manifest))
        result = self.cluster.turbofleet("verify", self.out / "manifest.jsonl")
        self.assertEqual(result.returncode, 3, result.stderr)

    def test_batch_reports_bad_rows_and_goes_on_and_a_second_run_does_only_what_is_missing(self):
        rows = self.out.parent / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in [
            {"prompt": "one", "seed": 1}, {"prompt": "two", "seed": 2, "steps": 9}, {"prompt": "three", "seed": 3}]))
        result = self.cluster.turbofleet("batch", rows, "--out", self.out)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertEqual(sorted(line["prompt"] for line in lines(self.out / "manifest.jsonl")), ["one", "three"])
        errors = lines(self.out / "errors.jsonl")
        self.assertEqual(len(errors), 1)
        self.assertIn("steps", json.dumps(errors[0]))

        before = self.cluster.metric("turbofleet_images_total", result="completed")
        (self.out / [line for line in lines(self.out / "manifest.jsonl") if line["prompt"] == "one"][0]["path"]).unlink()
        self.cluster.turbofleet("batch", rows, "--out", self.out)
        self.assertEqual(self.cluster.metric("turbofleet_images_total", result="completed"), before + 1)

    def test_batch_reads_csv_and_text(self):
        csv = self.out.parent / "rows.csv"
        csv.write_text('prompt,seed\n"with, comma and ""quotes""",5\nplain,6\n')
        self.run_ok("batch", csv, "--out", self.out)
        self.assertEqual(sorted(line["prompt"] for line in lines(self.out / "manifest.jsonl")),
                         ["plain", 'with, comma and "quotes"'])
        text = self.out.parent / "rows.txt"
        text.write_text("first\nsecond\n")
        self.run_ok("batch", text, "--out", self.out.parent / "text", "--seed", "3")
        self.assertEqual(len(lines(self.out.parent / "text" / "manifest.jsonl")), 2)

    def test_workers_and_status_tell_of_the_cluster(self):
        self.assertIn("worker-1", self.run_ok("workers").stdout)
        status = json.loads(self.run_ok("status", "--json").stdout)
        self.assertIn("2", json.dumps(status))

    def test_usage_errors_end_with_2_before_anything_is_sent(self):
        for arguments in [["generate"], ["generate", "x", "--size", "63x64"], ["generate", "x", "--seed", "-1"],
                          ["generate", "x", "--strength", "0.5"], ["nonsense"], ["generate", "x", "--steps", "five"]]:
            with self.subTest(arguments=arguments):
                result = self.cluster.turbofleet(*arguments, "--out", self.out)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertNotEqual(result.stderr, "")

    def test_interrupting_keeps_what_has_arrived(self):
        with Cluster(workers=1, worker_arguments=["--simulated", "image_time=50ms"]) as cluster:
            process = subprocess.Popen(
                [BIN_DIR / "turbofleet", "--coordinator", cluster.address, "generate", "x", "--count", "1000", "--out",
                 self.out], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            manifest = self.out / "manifest.jsonl"
            wait_until(lambda: manifest.exists() and len(manifest.read_text().splitlines()) >= 3, "three images")
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130, stderr)
            for line in lines(manifest):
                self.assertTrue((self.out / line["path"]).exists())
            wait_until(lambda: cluster.state().images_queued == 0, "the queue to empty")

    def test_a_coordinator_that_dies_in_the_middle_is_hidden_from_the_caller(self):
        with Cluster(workers=2, worker_arguments=["--simulated", "image_time=20ms"]) as cluster:
            process = subprocess.Popen(
                [BIN_DIR / "turbofleet", "--coordinator", cluster.address, "generate", "x", "--count", "100", "--seed",
                 "7", "--out", self.out], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            manifest = self.out / "manifest.jsonl"
            wait_until(lambda: manifest.exists() and len(manifest.read_text().splitlines()) >= 10, "ten images")
            cluster.coordinator.kill()
            cluster.start_coordinator()
            _, stderr = process.communicate(timeout=120)
            self.assertEqual(process.returncode, 0, stderr)
            self.assertEqual(sorted(line["seed"] for line in lines(manifest)), list(range(7, 107)))


class WithoutClusterTest(unittest.TestCase):
    def test_every_program_explains_itself(self):
        for program in ["turbofleet", "turbofleet-coordinator", "turbofleet-worker"]:
            for flag, needle in [("--help", "Usage"), ("--version", ".")]:
                result = subprocess.run([BIN_DIR / program, flag], capture_output=True, text=True, timeout=60)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertIn(needle.lower(), result.stdout.lower())

    def complete(self, *words):
        """What bash offers for the last of the words."""
        script = subprocess.run([BIN_DIR / "turbofleet", "completion", "bash"], capture_output=True, text=True, timeout=60)
        self.assertEqual(script.returncode, 0, script.stderr)
        result = subprocess.run(
            ["bash", "-c", script.stdout + 'COMP_WORDS=(turbofleet "$@"); COMP_CWORD=$#; _turbofleet; echo "${COMPREPLY[@]}"',
             "bash", *words], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        return set(result.stdout.split())

    def test_bash_completes_commands_options_values_and_files(self):
        commands = {"generate", "batch", "workers", "status", "verify", "completion", "version"}
        self.assertLessEqual(commands | {"--coordinator"}, self.complete(""))
        self.assertEqual(self.complete("gen"), {"generate"})
        self.assertEqual(self.complete("-c", "host:1", "ba"), {"batch"})
        self.assertEqual(self.complete("generate", "a fox", "--se"), {"--seed", "--seeds"})
        self.assertEqual(self.complete("generate", "--coord"), {"--coordinator"})
        self.assertEqual(self.complete("generate", "--format", ""), {"png", "jpeg", "jpg", "webp", "raw"})
        self.assertEqual(self.complete("batch", "-f", "w"), {"webp"})
        self.assertEqual(self.complete("completion", ""), {"bash", "zsh", "fish"})
        self.assertEqual(self.complete("verify", __file__[:-1]), {__file__})

    def test_every_shell_gets_every_option(self):
        for command in ("generate", "batch"):
            page = subprocess.run([BIN_DIR / "turbofleet", command, "--help"], capture_output=True, text=True, timeout=60)
            options = re.findall(r"^  (?:-\w,)?--([\w-]+)", page.stdout, re.MULTILINE)
            self.assertGreater(len(options), 20)
            for shell in ("bash", "zsh", "fish"):
                script = subprocess.run([BIN_DIR / "turbofleet", "completion", shell], capture_output=True, text=True,
                                        timeout=60)
                for option in options:
                    self.assertRegex(script.stdout, rf"(--|-l ){option}\b", f"{shell}: {command} --{option}")

    def test_nobody_there_is_said_with_what_to_do(self):
        result = subprocess.run([BIN_DIR / "turbofleet", "--coordinator", "127.0.0.1:1", "status"], capture_output=True,
                                text=True, timeout=120)
        self.assertEqual(result.returncode, 4, result.stderr)
        self.assertIn("127.0.0.1:1", result.stderr)


if __name__ == "__main__":
    unittest.main()
