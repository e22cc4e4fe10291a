#!/usr/bin/env bash
# Puts libtorch into the user's cache, once, and prints its folder.
#
# The pinned wheels are unpacked, not installed: they hold the same shared
# libraries as the C++ download, and no Python is needed to use them.
# TURBOFLEET_LIBTORCH=DIR uses a libtorch that is already there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=2.11.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/turbofleet
root=$cache/libtorch-$version

say() { printf '%s\n' "$*" >&2; }
fail() { say "libtorch: $1"; say "  $2"; exit 1; }

if [ -n "${TURBOFLEET_LIBTORCH:-}" ]; then
  [ -e "$TURBOFLEET_LIBTORCH/lib/libtorch_cpu.so" ] ||
    fail "TURBOFLEET_LIBTORCH=$TURBOFLEET_LIBTORCH has no lib/libtorch_cpu.so" "Point it at the folder that holds include/ and lib/."
  printf '%s\n' "$TURBOFLEET_LIBTORCH"
  exit 0
fi

if [ ! -e "$root/complete" ]; then
  [ "$(uname -m)" = x86_64 ] || fail "the pinned wheels are for x86-64" "Set TURBOFLEET_LIBTORCH to a libtorch built for this machine."
  for tool in python3 unzip; do
    command -v "$tool" >/dev/null || fail "$tool is missing" "Install it: apt-get install python3 python3-pip unzip"
  done
  python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing" "Install it: apt-get install python3-pip"
  mkdir -p "$cache"
  # One at a time: two builds that start together must not unpack over each other.
  exec 9>"$cache/libtorch.lock"
  flock 9
fi
if [ ! -e "$root/complete" ]; then
  work=$(mktemp -d "$cache/libtorch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "Fetching libtorch $version (about 545 MB, once) ..."
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 \
    -d "$work/wheels" -r "$here/libtorch-wheels.txt" >&2 ||
    fail "the download failed" "Check the network and the disk (2 GB free), then run this again."
  say "Unpacking ..."
  mkdir "$work/root"
  for wheel in "$work"/wheels/*.whl; do
    unzip -q "$wheel" 'torch/lib/*' 'torch/include/*' 'nvidia/*/lib/*' 'nvidia/*/include/*' '*/LICENSE*' '*.dist-info/*' \
      -x 'torch/lib/libtorch_python.so' -d "$work/root" 2>/dev/null || [ $? -eq 11 ] ||
      fail "$(basename "$wheel") could not be unpacked" "The disk may be full: 2 GB are needed in $cache."
  done
  [ -e "$work/root/torch/lib/libtorch_cpu.so" ] || fail "the wheel has no libtorch_cpu.so" "Report this."
  rm -rf "$root"
  touch "$work/root/complete"
  mv "$work/root" "$root"
fi
printf '%s\n' "$root/torch"
