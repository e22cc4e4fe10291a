# shellcheck shell=bash
# What deploy/quickstart.sh and tests/run.sh share: sourced, never run.
#
# Sets `repository` and `libtorch`, and fails with a hint when something cannot be had.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -t 2 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi

# say TEXT: what is being done now.
say() { printf '%s\n' "${bold}==> $*${plain}" >&2; }

# fail WHAT HINT...: ends the script.
fail() {
  printf '%s\n' "${bold}failed:${plain} $1" >&2
  shift
  printf '  %s\n' "$@" >&2
  exit 1
}

# Runs a command as root.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# install_packages GROUP...: installs what is missing of those groups of deploy/packages.txt.
install_packages() {
  command -v dpkg-query >/dev/null || fail "this is no Debian system" \
    "Turbofleet's scripts set up Debian 12. Elsewhere install what deploy/packages.txt lists," \
    "then follow docs/HACKING.md."
  local group wanted=() missing=() package
  for group in "$@"; do
    while read -r package; do wanted+=("$package"); done < <(awk -v g="$group" '$1 == g {print $2}' "$repository/deploy/packages.txt")
  done
  local installed
  # It fails where one of them was never heard of, which is no failure here.
  # shellcheck disable=SC2016  # The variables are dpkg-query's.
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null |
    awk '$2 == "installed" {print $1}' | sort -u || true)
  for package in "${wanted[@]}"; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  local by_hand="apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    fail "${#missing[@]} Debian packages are missing, and there is no sudo to install them" "As root: $by_hand"
  fi
  say "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! as_root apt-get -q -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 ||
    ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install \
      --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    rm -f "$log"
    fail "the packages could not be installed" "Check the network and the disk, then try by hand as root: $by_hand" \
      "The scripts are made for Debian 12 (bookworm); other releases lack some of these packages."
  fi
  rm -f "$log"
}

# Sets `libtorch` to the folder of a libtorch, which is fetched once.
find_libtorch() {
  libtorch=$("$repository/deploy/libtorch.sh") || exit 1
}

# configure PRESET [OPTION...]: makes build/PRESET, unless it is there and belongs to the same libtorch. Ninja itself
# configures again when a CMakeLists.txt has changed.
configure() {
  local preset=$1
  shift
  local stamp=$repository/build/$preset/configured-with
  local options="TURBOFLEET_LIBTORCH=$libtorch $*"
  if [ -e "$repository/build/$preset/build.ninja" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$options" ]; then return 0; fi
  say "Configuring (preset $preset)"
  local log
  log=$(mktemp)
  (cd "$repository" && cmake --preset "$preset" -DTURBOFLEET_LIBTORCH="$libtorch" "$@") >"$log" 2>&1 || {
    tail -n 25 "$log" >&2
    rm -f "$log"
    fail "CMake could not configure" "Its message is above. After a change of the system, remove build/$preset and try again."
  }
  rm -f "$log"
  printf '%s' "$options" >"$stamp"
}

# build PRESET [TARGET...]: a line that changes on a terminal, few lines elsewhere.
build() {
  local preset=$1
  shift
  local targets=()
  [ $# -eq 0 ] || targets=(--target "$@")
  # Clones in other folders share the cache, and one full build of each preset fits into it.
  export CCACHE_BASEDIR=$repository CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-10G}
  export NINJA_STATUS="[%f/%t, %es] "
  say "Building (preset $preset)"
  (cd "$repository" && cmake --build --preset "$preset" "${targets[@]}") >&2 ||
    fail "the build failed" "The first error is above. If the compiler was killed, memory was short:" \
      "build with fewer processes by CMAKE_BUILD_PARALLEL_LEVEL=1."
}
