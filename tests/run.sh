#!/usr/bin/env bash
# Builds Turbofleet with its tests and runs all of them through CTest.
#
#   tests/run.sh [--no-torch] [--sanitizers] [--clang] [arguments of ctest]
#   tests/run.sh -L scheduler
#   tests/run.sh -R JsonTest --verbose
#
# --no-torch    leaves out libtorch and what needs it
# --sanitizers  runs the tests also under ASan+UBSan and under TSan, without libtorch
# --clang       builds everything but libtorch's part with Clang's thread-safety analysis, warnings as errors
# --clang-tidy  the same with clang-tidy besides, which takes half an hour on two cores
# Ends with CTest's closing lines. Missing packages and libtorch are fetched as deploy/quickstart.sh does.
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/setup.sh"

torch=yes sanitizers=no clang=no clang_tidy=''
ctest_arguments=()
for argument in "$@"; do
  case $argument in
    -h | --help)
      sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --no-torch) torch=no ;;
    --sanitizers) sanitizers=yes ;;
    --clang) clang=yes ;;
    --clang-tidy) clang=yes clang_tidy=clang-tidy-19 ;;
    *) ctest_arguments+=("$argument") ;;
  esac
done

groups=(build test)
[ $torch = no ] || groups+=(libtorch)
[ $clang = no ] || groups+=(clang)
install_packages "${groups[@]}"
libtorch=''
preset_options=(-DTURBOFLEET_TORCH=OFF)
if [ $torch = yes ]; then
  find_libtorch
  preset_options=(-DTURBOFLEET_TORCH=ON)
fi

# Tests of processes on loopback wait more than they compute.
jobs=$(nproc)

# run_tests PRESET [ARGUMENT...]
run_tests() {
  local preset=$1
  shift
  say "Testing (preset $preset)"
  (cd "$repository" && ctest --preset "$preset" --parallel "$jobs" "$@" "${ctest_arguments[@]}")
}

status=0
configure dev "${preset_options[@]}"
build dev
run_tests dev || status=$?

if [ $sanitizers = yes ]; then
  for preset in asan tsan; do
    configure $preset
    build $preset
    run_tests $preset || status=$?
  done
fi
if [ $clang = yes ]; then
  configure clang "-DCMAKE_CXX_CLANG_TIDY=$clang_tidy"
  build clang
fi

[ $status = 0 ] || fail "some tests failed" "The log: build/dev/Testing/Temporary/LastTest.log. One test again: tests/run.sh -R NAME"
exit $status
