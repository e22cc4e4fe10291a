"""The C++ client as another project uses it: installed, found by find_package(), linked, and run against a cluster."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from cluster import Cluster  # noqa: E402

CONSUMER = pathlib.Path(__file__).resolve().parent / "consumer"
BUILD_DIR = os.environ["TURBOFLEET_BUILD_DIR"]
CMAKE = os.environ["TURBOFLEET_CMAKE"]


class InstallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="turbofleet-install-")))
        cls.prefix = cls.folder / "prefix"
        cls.cmake("--install", BUILD_DIR, "--component", "client", "--prefix", cls.prefix)

    @classmethod
    def cmake(cls, *arguments, ok=True):
        result = subprocess.run([CMAKE, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        if ok and result.returncode != 0:
            raise AssertionError(f"cmake {arguments}: {result.stdout}{result.stderr}")
        return result

    def consumer(self, *arguments):
        return subprocess.run([self.folder / "build" / "consumer", *arguments], capture_output=True, text=True, timeout=60)

    def test_only_the_public_headers_are_installed(self):
        headers = {str(path.relative_to(self.prefix / "include")) for path in self.prefix.glob("include/**/*.h")}
        self.assertEqual(headers, {f"turbofleet/{name}.h" for name in ("client", "cluster", "errors", "generate", "jobs")})

    def test_another_project_finds_links_and_runs_it(self):
        self.cmake("-S", CONSUMER, "-B", self.folder / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}")
        self.cmake("--build", self.folder / "build")
        with Cluster(workers=1) as cluster:
            result = self.consumer(cluster.address, "1")
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertEqual([line.split()[0] for line in sorted(result.stdout.splitlines())], ["7", "8"])
            self.assertRegex(result.stdout, r"^(\d [0-9a-f]{64}\n){2}$")
            # Errors cross the border of the library with their details.
            self.assertEqual(self.consumer(cluster.address, "9").stdout, "INVALID_ARGUMENT INVALID_FIELD steps\n")
        self.assertEqual(self.consumer(cluster.address, "1").stdout, "UNAVAILABLE \n")

    def test_another_minor_version_is_not_taken_for_this_one(self):
        source = self.folder / "other"
        source.mkdir()
        (source / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.25)\nproject(other LANGUAGES CXX)\n"
                                               "find_package(turbofleet 0.99 CONFIG REQUIRED)\n")
        result = self.cmake("-S", source, "-B", self.folder / "other_build", f"-DCMAKE_PREFIX_PATH={self.prefix}",
                            ok=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("0.99", result.stderr)


if __name__ == "__main__":
    unittest.main()
