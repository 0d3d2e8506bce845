# shellcheck shell=bash
# Names and places, shared by every command of the local cluster, and the two ways out: fail, and as_root.
#
# One cluster is a "bed". Everything that it leaves on the machine while it runs carries its name (GANNET_BED, "local" by
# default), so that two beds stand side by side: the state folder, the network namespaces and the cgroups. Addresses
# need no such care, because every bed has a network of its own that is not connected to the machine's.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd -P)
LOCAL=$REPOSITORY/deploy/local

export GANNET_BED=${GANNET_BED:-local}
# Built programs, the Python client and the logs of the steps: outside the tree, shared by all clones.
export GANNET_CACHE=${GANNET_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/gannet}

BED=gannet-$GANNET_BED          # also: the control plane's network namespace, and the bed's cgroup
STATE=/var/lib/$BED             # root's: etcd, the nodes' containerd and kubelet folders, certificates, logs
KUBECONFIG_FILE=$STATE/kubeconfig
NAMESPACE=gannet-system         # where the chart goes

fail() { # fail SENTENCE: the one way to give up
  printf '%s\n' "$*" >&2
  exit 1
}

[[ $GANNET_BED =~ ^[a-z][a-z0-9]{0,15}$ ]] || fail "GANNET_BED=$GANNET_BED: a bed's name is at most 16 lower-case letters and digits, beginning with a letter"

need_root() { # without root and without sudo nothing here can work: say so at once
  [ "$EUID" = 0 ] || command -v sudo >/dev/null ||
    fail "${0##*/} needs root (it makes network namespaces and mounts) and there is no sudo here: run it as root"
}

as_root() { # as_root COMMAND ARGUMENTS...
  if [ "$EUID" = 0 ]; then "$@"; else sudo "${SUDO_OPTIONS[@]}" env "PATH=$PATH:/usr/sbin:/sbin" "$@"; fi
}

# In the background of a step, sudo must not wait for a password that nobody is asked for: there it fails instead.
SUDO_OPTIONS=(-E ${GANNET_STEP:+-n})

become_root() { # become_root ARGUMENTS...: start the calling command again as root, unless it is
  [ "$EUID" = 0 ] && return
  need_root
  exec sudo "${SUDO_OPTIONS[@]}" env "PATH=$PATH:/usr/sbin:/sbin" "$0" "$@"
}

need_running() {
  [ -e "$STATE/started" ] || fail "no local cluster is running (bed $GANNET_BED): deploy/local/up starts one"
}

in_network() { # in_network COMMAND...: as root, in the control plane's network namespace
  # Not 'ip netns exec': that mounts a new /sys and hides the cgroup hierarchies.
  nsenter --net="/run/netns/$BED" "$@"
}

# For these commands themselves. As root, so its cache must not land in the home of the user who called.
kubectl() {
  as_root nsenter --net="/run/netns/$BED" env KUBECACHEDIR="$STATE/kubectl" KUBERC=off "$STATE/bin/kubectl" --kubeconfig "$KUBECONFIG_FILE" "$@"
}

version() { # the workspace's version, which is the images' tag
  awk -F'"' '/^\[workspace.package\]/ {inside = 1} inside && /^version *=/ {print $2; exit}' "$REPOSITORY/Cargo.toml"
}
