#!/usr/bin/env bash
# Fuzzes: builds the targets and runs each over its corpus.
#
#   tests/fuzz/run.sh [SECONDS] [TARGET...]
#   tests/fuzz/run.sh 300 safetensors image
#
# SECONDS (60) are for each target. What a target finds of new inputs stays in build/fuzz/corpus/. An input that breaks a
# target ends the script and is kept as build/fuzz/TARGET-*: mend the code, then add it to tests/fuzz/corpus/TARGET/, so
# that `tests/run.sh -L fuzz` replays it for ever.
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/setup.sh"
cd "$repository"

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -a -s _fuzz.cc tests/fuzz/*_fuzz.cc)

install_packages build clang
libtorch=''
configure fuzz
build fuzz "${targets[@]/%/_fuzz}"
for target in "${targets[@]}"; do
  say "Fuzzing $target for $seconds s"
  mkdir -p "build/fuzz/corpus/$target"
  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 "build/fuzz/tests/${target}_fuzz" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="build/fuzz/$target-" "build/fuzz/corpus/$target" "tests/fuzz/corpus/$target" ||
    fail "$target broke" "The input is named above; the same again: build/fuzz/tests/${target}_fuzz FILE"
done
say "No target broke"
