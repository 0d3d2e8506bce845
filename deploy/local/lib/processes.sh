# shellcheck shell=bash
# The bed's processes. Each component is started in a cgroup of its own below the bed's, and the pods' cgroups are
# below the bed's too: so every process of the bed can be found at any time, whoever started it and whatever became of
# that, and no process id is ever stored and believed later.

STOP_ROUNDS=150 # of a tenth of a second

CGROUP_ROOTS=() # every hierarchy in which the bed has a tree: nine or so under cgroup v1, one under v2
CGROUP_V2=
find_cgroup_roots() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    CGROUP_V2=yes
    CGROUP_ROOTS=(/sys/fs/cgroup)
  else
    mapfile -t CGROUP_ROOTS < <(awk '$3 == "cgroup" {print $2}' /proc/mounts | sort -u)
  fi
  [ ${#CGROUP_ROOTS[@]} != 0 ] || fail "no cgroup hierarchy is mounted on this machine"
}
find_cgroup_roots

create_cgroup() { # create_cgroup PATH: in every hierarchy, with all controllers, which containers in it need
  local root
  for root in "${CGROUP_ROOTS[@]}"; do
    create_cgroup_in "$root" "$1"
  done
}

create_cgroup_in() { # create_cgroup_in HIERARCHY PATH
  local at=$1 part controller file
  for part in ${2//\// }; do
    if [ -n "$CGROUP_V2" ]; then
      # One by one: a kernel lacks one or another, and one that is refused must not take the others with it.
      for controller in cpuset cpu io memory hugetlb pids; do
        echo "+$controller" 2>/dev/null >"$at/cgroup.subtree_control" || true
      done
    fi
    mkdir -p "$at/$part"
    # In v1 a new cpuset is empty, and no process can enter it until it is filled.
    for file in cpuset.cpus cpuset.mems; do
      [ -n "$CGROUP_V2" ] || [ ! -e "$at/$file" ] || [ -n "$(<"$at/$part/$file")" ] || cat "$at/$file" >"$at/$part/$file"
    done
    at=$at/$part
  done
}

# Of every mounted hierarchy: where both versions are mounted, runc makes cgroups in the v2 one too.
remove_cgroups() {
  local root
  for root in $(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts); do
    [ ! -d "$root/$BED" ] || find "$root/$BED" -depth -type d -exec rmdir {} +
  done
}

# The hierarchy in which processes are looked up. Containers join all of them.
lookup_root() {
  local root
  for root in "${CGROUP_ROOTS[@]}"; do
    [ "${root##*/}" != pids ] || { echo "$root" && return; }
  done
  echo "${CGROUP_ROOTS[0]}"
}
LOOKUP=$(lookup_root)

start_component() { # start_component NAME COMMAND...: in the background, in its cgroup, its output in the bed's logs
  local name=$1
  shift
  (
    join_cgroup "components/$name"
    # Nothing of the caller's is kept: its lock (descriptor 9) would be held for as long as the component lives.
    exec setsid "$@" </dev/null >>"$STATE/logs/$name.log" 2>&1 9>&-
  ) &
}

join_cgroup() { # join_cgroup PATH: the calling shell, into a cgroup below the bed's
  local root
  create_cgroup "$BED/$1"
  for root in "${CGROUP_ROOTS[@]}"; do echo "$BASHPID" >"$root/$BED/$1/cgroup.procs"; done
}

component_pids() { cat "$LOOKUP/$BED/components/$1/cgroup.procs" 2>/dev/null || true; }

component_pid() { component_pids "$1" | head -n 1; }

is_running() { [ -n "$(component_pids "$1")" ]; }

signal_component() { # signal_component NAME SIGNAL
  local pid
  for pid in $(component_pids "$1"); do kill "-$2" "$pid" 2>/dev/null || true; done
}

stop_component() { # asks, and insists after STOP_ROUNDS
  local round
  signal_component "$1" TERM
  for ((round = 0; round < STOP_ROUNDS; round++)); do
    is_running "$1" || return 0
    sleep 0.1
  done
  signal_component "$1" KILL
}

bed_pids() { [ ! -d "$LOOKUP/$BED" ] || find "$LOOKUP/$BED" -name cgroup.procs -exec cat {} + 2>/dev/null || true; }

# Killed, not asked: nothing in a bed outlives it, and a kubelet that is asked to stop leaves its containers running.
# In rounds, because a process can start another while the list is read.
kill_all_processes() {
  local round pids
  for ((round = 0; round < STOP_ROUNDS; round++)); do
    pids=$(bed_pids)
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  fail "processes of bed $GANNET_BED do not end: $(tr '\n' ' ' <<<"$pids")"
}

wait_until() { # wait_until SECONDS WHAT COMMAND...: or fail, saying what was waited for
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "waited in vain for $what; the components' logs are in $STATE/logs"
    sleep 0.2
  done
}
