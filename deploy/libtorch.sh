#!/usr/bin/env bash
# Puts libtorch into the user's cache, once, and prints its folder.
#
# The pinned wheels are unpacked, not installed: they hold the same shared
# libraries as the C++ download, and no Python is needed to use them.
# TURBOFLEET_LIBTORCH=DIR uses a libtorch that is already there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=2.11.0
disk_mb_min=2000 # 545 MB of wheels beside 1.1 GB unpacked.

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "libtorch: $1"
  say "  $2"
  exit 1
}

if [ -n "${TURBOFLEET_LIBTORCH:-}" ]; then
  [ -e "$TURBOFLEET_LIBTORCH/lib/libtorch_cpu.so" ] ||
    fail "TURBOFLEET_LIBTORCH=$TURBOFLEET_LIBTORCH has no lib/libtorch_cpu.so" "Point it at the folder that holds include/ and lib/, or unset it to fetch one."
  (cd "$TURBOFLEET_LIBTORCH" && pwd)
  exit 0
fi

# Services and containers often run without HOME.
home=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
cache=${XDG_CACHE_HOME:-${home:-/tmp}/.cache}/turbofleet
root=$cache/libtorch-$version

find_pip() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      printf '%s\n' "$python"
      return 0
    fi
  done
  return 1
}

download() {
  local python
  python=$(find_pip) || fail "Python's pip is missing" "Install it: apt-get install python3-pip"
  command -v unzip >/dev/null || fail "unzip is missing" "Install it: apt-get install unzip"
  local free_mb
  free_mb=$(df -Pm "$cache" | awk 'NR == 2 {print $4}')
  [ "$free_mb" -ge "$disk_mb_min" ] ||
    fail "$cache has $free_mb MB free, $disk_mb_min are needed" "Make room, or set XDG_CACHE_HOME to a folder on a larger disk."
  work=$(mktemp -d "$cache/libtorch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "Fetching libtorch $version (about 545 MB, once) ..."
  # Hashes are in the file; a package that differs is refused. The environment of a developer must not get in the way.
  PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip download --no-deps --only-binary=:all: \
    --require-hashes --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 \
    -d "$work/wheels" -r "$here/libtorch-wheels.txt" >&2 ||
    fail "the download failed" "Check that this machine reaches PyPI (PIP_INDEX_URL names a mirror), then run this again; or set TURBOFLEET_LIBTORCH to a libtorch >= 2.6."
  say "Unpacking ..."
  mkdir "$work/root"
  local wheel status
  for wheel in "$work"/wheels/*.whl; do
    status=0
    unzip -q "$wheel" 'torch/lib/*' 'torch/include/*' 'nvidia/*/lib/*' 'nvidia/*/include/*' '*/LICENSE*' '*.dist-info/*' \
      -x 'torch/lib/libtorch_python.so' -d "$work/root" 2>/dev/null || status=$?
    # 11: a pattern that this wheel has nothing for.
    [ "$status" = 0 ] || [ "$status" = 11 ] ||
      fail "$(basename "$wheel") could not be unpacked" "The disk may be full: $disk_mb_min MB are needed in $cache."
    rm "$wheel"
  done
  [ -e "$work/root/torch/lib/libtorch_cpu.so" ] || fail "the wheel has no libtorch_cpu.so" "deploy/libtorch-wheels.txt names a wrong package."
  rm -rf "$root"
  touch "$work/root/complete"
  mv "$work/root" "$root"
}

if [ ! -e "$root/complete" ]; then
  [ "$(uname -m)" = x86_64 ] || fail "the pinned wheels are for x86-64" "Set TURBOFLEET_LIBTORCH to a libtorch built for this machine."
  mkdir -p "$cache" || fail "$cache cannot be made" "Set XDG_CACHE_HOME to a folder that you can write to."
  # One at a time: two builds that start together must not unpack over each other.
  exec 9>"$cache/libtorch.lock"
  flock 9
  [ -e "$root/complete" ] || download
fi
printf '%s\n' "$root/torch"
