# shellcheck shell=bash
# Steps: what a long command is doing, how long it took, and where to look when it failed.

STEP_LOGS=$GANNET_CACHE/logs/$GANNET_BED
STEP_FAILED_LINES=25
STEP_PID=
STEP_LOG= # of the last step

# The step has a process group of its own: Ctrl-C reaches all of a build, and never what a step leaves running.
stop_step() { [ -z "$STEP_PID" ] || kill -TERM -- "-$STEP_PID" 2>/dev/null || true; }
trap 'stop_step; exit 130' INT
trap 'stop_step; exit 143' TERM HUP

step() { # step TITLE FUNCTION ARGUMENTS...: runs FUNCTION; on failure prints the end of its log and exits
  try_step "$@"
  [ "$STEP_STATE" = 0 ] || exit 1
}

# The same, but what a failure means is for the caller to decide, by STEP_STATE. Not by its result: where bash looks at a
# function's result (if, ||), it ignores errors everywhere in it, and the step would go on after its first one.
try_step() {
  local title=$1 start
  shift
  STEP_STATE=0
  STEP_LOG=$STEP_LOGS/$(tr -cs 'a-zA-Z0-9' - <<<"$title" | sed 's/-*$//').log
  mkdir -p "$STEP_LOGS"
  ask_for_password
  start=$EPOCHREALTIME
  set -m
  (
    set -euo pipefail
    export GANNET_STEP=yes
    SUDO_OPTIONS=(-E -n)
    "$@"
  ) </dev/null >"$STEP_LOG" 2>&1 &
  STEP_PID=$!
  set +m
  show_progress "$title" "$STEP_LOG"
  wait "$STEP_PID" || STEP_STATE=$?
  STEP_PID=
  clear_progress
  if [ "$STEP_STATE" != 0 ]; then
    printf '%s  %s: failed. The end of %s:\n' "$(elapsed "$start")" "$title" "$STEP_LOG" >&2
    tail -n "$STEP_FAILED_LINES" "$STEP_LOG" | sed 's/^/    /' >&2
    return
  fi
  printf '%s  %s%s\n' "$(elapsed "$start")" "$title" "$(step_remark "$STEP_LOG")"
}

ask_for_password() { # now, in the foreground: a step is in the background
  [ "$EUID" = 0 ] || ! command -v sudo >/dev/null || sudo -n true 2>/dev/null || sudo -v
}

remark() { printf 'remark: %s\n' "$*"; } # in a step: a word that is shown beside its title when it is done

step_remark() { sed -n 's/^remark: /: /p' "$1" | tail -n 1; }

elapsed() { # seconds since $1 (an EPOCHREALTIME), one decimal
  local microseconds=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
  printf '%5d.%d s' $((microseconds / 1000000)) $((microseconds / 100000 % 10))
}

show_progress() { # until the step ends: on a terminal one line that lives, elsewhere a line every half minute
  local title=$1 log=$2 seconds=0 last
  while kill -0 "$STEP_PID" 2>/dev/null; do
    # The first second in short pauses: most steps are shorter.
    if [ $seconds = 0 ]; then wait_shortly && break; else sleep 1; fi
    seconds=$((seconds + 1))
    last=$(tail -c 400 "$log" | tr '\r\t' '\n ' | grep -av '^ *$' | tail -n 1 || true)
    if [ -t 1 ]; then
      printf '\r\033[K%5d   s  %s  \033[2m%.*s\033[0m' $seconds "$title" $(("${COLUMNS:-100}" - ${#title} - 14)) "$last"
    elif [ $((seconds % 30)) = 0 ]; then
      printf '%5d   s  %s ... %.80s\n' $seconds "$title" "$last"
    fi
  done
}

wait_shortly() { # a second in tenths; success as soon as the step has ended
  local _
  for _ in {1..10}; do
    kill -0 "$STEP_PID" 2>/dev/null || return 0
    sleep 0.1
  done
  return 1
}

clear_progress() { [ ! -t 1 ] || printf '\r\033[K'; }
