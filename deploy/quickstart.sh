#!/usr/bin/env bash
# Pictures from one command: builds Turbofleet, starts a coordinator and two workers with the demo model on this machine,
# runs a job and stops them again.
#
#   deploy/quickstart.sh ["PROMPT"] [options of `turbofleet generate`]
#   deploy/quickstart.sh "a blue star on a yellow background" --count 64 --seed 7
#
# Pictures, a contact sheet and a manifest go to out/ (or --out DIR). The first run takes some ten minutes on two cores,
# later ones seconds. TURBOFLEET_LIBTORCH=DIR uses a libtorch that is already there; TURBOFLEET_MODEL=DIR another model.
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

default_prompt="a red circle on a blue background"
default_count=16
wait_seconds_max=120

usage() { sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"; }

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac

prompt=$default_prompt
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  prompt=$1
  shift
fi

# The defaults hold unless the caller's options say otherwise.
options=("$@")
has_option() {
  local word
  for word in "${options[@]}"; do
    case $word in "$1" | "$1="*) return 0 ;; esac
  done
  return 1
}
out=out
for ((i = 0; i < ${#options[@]}; i++)); do
  case ${options[i]} in
    --out) out=${options[i + 1]:-$out} ;;
    --out=*) out=${options[i]#--out=} ;;
  esac
done
has_option --out || options+=(--out "$out")
has_option --count || options+=(--count "$default_count")
has_option --sheet || options+=(--sheet)

model=${TURBOFLEET_MODEL:-$repository/worker/demo_model/model}
[ -e "$model/model_index.json" ] || fail "no model in $model" "It needs a diffusers folder with model_index.json."

install_packages build libtorch
find_libtorch
configure release
build release turbofleet turbofleet-coordinator turbofleet-worker
bin=$repository/build/release/bin

logs=$(mktemp -d "${TMPDIR:-/tmp}/turbofleet.XXXXXX")
pids=()

# Stops what was started, gently first. Logs stay when something went wrong.
stop_all() {
  local status=$?
  trap - EXIT INT TERM
  [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
  local pid
  for pid in "${pids[@]}"; do
    timeout 15 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  if [ $status -eq 0 ]; then rm -rf "$logs"; else printf '%s\n' "Logs of the programs: $logs" >&2; fi
  exit $status
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME PROGRAM [ARGUMENT...]: in the background, with its output in a file.
start() {
  local name=$1
  shift
  # In a session of its own, so that Ctrl-C reaches this script alone, which then stops things in order.
  setsid "$@" </dev/null >"$logs/$name.log" 2>&1 &
  pids+=($!)
}

# await WHAT COMMAND...: until the command succeeds. A program that ended meanwhile is a failure.
await() {
  local what=$1 deadline=$((SECONDS + wait_seconds_max)) pid log
  shift
  until "$@" >/dev/null 2>&1; do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2>/dev/null && continue
      for log in "$logs"/*.log; do
        printf '%s\n' "--- $log" >&2
        tail -n 15 "$log" >&2
      done
      fail "a program ended before $what" "Its last lines are above."
    done
    [ $SECONDS -lt $deadline ] || fail "waited $wait_seconds_max seconds in vain for $what" "Look into the logs."
    sleep 0.1
  done
}

# HTTP without curl, which Debian does not always have: the status line is all that matters. In a subshell, because bash
# ends where exec fails.
http_ok() (
  exec 8<>"/dev/tcp/${1%:*}/${1##*:}"
  printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&8
  read -r -t 5 -u 8 status
  case $status in *' 200 '*) exit 0 ;; *) exit 1 ;; esac
)

two_workers_ready() {
  "$bin/turbofleet" status --coordinator "$grpc_address" --json | tr -d ' \n' | grep -q '"workers_\?[rR]eady":"\?2'
}

# What a user has configured for a cluster of their own is not meant for this one.
export XDG_CONFIG_HOME=$logs
unset TURBOFLEET_CONFIG
say "Starting a coordinator and two workers (model: ${model#"$repository"/})"
start coordinator "$bin/turbofleet-coordinator" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --data-dir "$logs/data" \
  --address-file "$logs/addresses"
await "the coordinator listened" grep -q ^http= "$logs/addresses"
grpc_address=$(sed -n 's/^grpc=//p' "$logs/addresses")
http_address=$(sed -n 's/^http=//p' "$logs/addresses")
await "the coordinator was ready" http_ok "$http_address" /healthz
# Two workers share the cores, or each would start a thread per core and both would be slower.
threads=$(($(nproc) / 2))
[ $threads -gt 0 ] || threads=1
for worker in 1 2; do
  start "worker-$worker" "$bin/turbofleet-worker" --coordinator "$grpc_address" --http-listen 127.0.0.1:0 \
    --name "worker-$worker" --model "$model" --device cpu --threads "$threads"
done
await "both workers were ready" two_workers_ready

say "Drawing: $prompt"
status=0
"$bin/turbofleet" generate "$prompt" --coordinator "$grpc_address" "${options[@]}" || status=$?
if [ $status -ne 0 ]; then
  [ $status -eq 2 ] && printf '%s\n' "The options that can be given: $bin/turbofleet generate --help" >&2
  exit $status
fi

say "Done: pictures and manifest.jsonl are in $out/"
[ ! -e "$out/sheet.png" ] || printf '%s\n' "    All of them at a glance: $out/sheet.png" >&2
