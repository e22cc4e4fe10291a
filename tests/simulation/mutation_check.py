#!/usr/bin/env python3
"""Shows that the simulation of durable jobs finds bugs: seeds one at a time and fails unless each is found.

Usage: tests/simulation/mutation_check.py [--check] [MUTANT...]

A mutant is a patch in tests/simulation/mutants. Each is applied to a copy of the tree in build/mutation, built there and
played with up to 10,000 seeds. Needs the packages of a build without libtorch. With --check it is only seen that every
patch applies.
"""

import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "tests/simulation/mutants"
COPY = ROOT / "build/mutation/tree"
BUILD = ROOT / "build/mutation/build"
TARGET = "durable_simulation_test"


def run(*command: object, cwd: pathlib.Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what it wrote; with `check` a failure ends the program."""
    result = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
    return result


def copy_tree() -> None:
    """Makes a fresh copy of the files that git knows, and keeps the times of those that have not changed."""
    kept = set()
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines():
        source, target = ROOT / name, COPY / name
        if not source.is_file():
            continue
        kept.add(target)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for target in COPY.rglob("*"):
        if target.is_file() and target not in kept:
            target.unlink()


def build() -> subprocess.CompletedProcess[str]:
    """Builds the simulation in the copy."""
    return run("cmake", "--build", BUILD, "-j2", "--target", TARGET, check=False)


def play() -> str | None:
    """Plays all seeds; returns the first that failed in any part, or None."""
    result = run("timeout", "600", BUILD / "tests" / TARGET, "--gtest_fail_fast", check=False)
    if result.returncode == 0:
        return None
    seed = re.search(r"TURBOFLEET_SIMULATION_SEED=(\d+)", result.stdout)
    return f"seed {seed.group(1)}" if seed else "one that crashed"


def patch(mutant: pathlib.Path, *options: str) -> None:
    """Applies a mutant to the copy."""
    run("patch", "--quiet", "--strip=1", *options, "--input", mutant, cwd=COPY)


def main(arguments: list[str]) -> None:
    mutants = sorted(MUTANTS.glob("*.patch"))
    if arguments == ["--check"]:
        for mutant in mutants:
            run("git", "apply", "--check", mutant)
        return
    if arguments:
        mutants = [MUTANTS / f"{name}.patch" for name in arguments]
    copy_tree()
    run("cmake", "-S", COPY, "-B", BUILD, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DTURBOFLEET_TORCH=OFF",
        "-DTURBOFLEET_TESTS=ON", *(["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []))
    if build().returncode != 0:
        sys.exit("the tree itself does not build")
    survived = []
    for mutant in mutants:
        patch(mutant)
        built = build()
        found = play() if built.returncode == 0 else None
        patch(mutant, "--reverse")
        if built.returncode != 0:
            sys.exit(f"{mutant.stem} does not build:\n{built.stdout}")
        print(f"{mutant.stem:40} {'found by ' + found if found else 'NOT FOUND'}", flush=True)
        if not found:
            survived.append(mutant.stem)
    if survived:
        sys.exit(f"not found: {', '.join(survived)}")


if __name__ == "__main__":
    main(sys.argv[1:])
