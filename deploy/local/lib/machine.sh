# shellcheck shell=bash
# What the machine must have: checked before anything is done, and installed from Debian where it is a package.

GO_NEEDED=1.24

check_system() {
  local id="" like="" pretty=""
  [ "$(uname -s)" = Linux ] || fail "the local cluster needs Linux (Debian 12), this is $(uname -s): with --context NAME, up installs into a cluster that you have"
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "the local cluster needs an x86_64 or arm64 machine, this is $(uname -m): with --context NAME, up installs into a cluster that you have" ;;
  esac
  if [ -r /etc/os-release ]; then
    id=$(os_release ID) like=$(os_release ID_LIKE) pretty=$(os_release PRETTY_NAME)
  fi
  [[ " $id $like " == *" debian "* ]] && command -v apt-get >/dev/null ||
    fail "the local cluster needs Debian 12 or a relative of it, this is ${pretty:-an unknown system}: with --context NAME, up installs into a cluster that you have"
  [ -e /sys/fs/cgroup/cgroup.controllers ] || [ -d /sys/fs/cgroup/memory ] ||
    fail "the local cluster needs the kernel's cgroups at /sys/fs/cgroup, and there are none on this machine"
}

os_release() ( # in a subshell: the file sets variables
  # shellcheck disable=SC1091
  . /etc/os-release
  printf '%s' "${!1:-}"
)

check_user() {
  need_root
  # Building as root in a user's tree would leave root's files in it.
  [ "$EUID" != 0 ] || [ -z "${SUDO_USER:-}" ] || [ "$SUDO_USER" = root ] || [ "$(stat -c %U "$REPOSITORY")" = root ] ||
    fail "run ${0##*/} as $SUDO_USER, without sudo: it builds as you and goes through sudo by itself where it needs root"
}

check_rust() {
  local needed have
  needed=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$REPOSITORY/Cargo.toml" | head -n 1)
  command -v cargo >/dev/null || fail "Rust $needed or newer is needed and cargo is not in PATH: https://rustup.rs installs it"
  have=$(rustc --version | awk '{print $2}')
  at_least "$needed" "$have" || fail "Rust $needed or newer is needed, this is $have: 'rustup update stable' brings it up to date"
}

check_go() {
  local have
  command -v go >/dev/null || fail "Go $GO_NEEDED or newer is needed (it builds the Kubernetes components) and go is not in PATH: https://go.dev/doc/install"
  have=$(go env GOVERSION)
  at_least $GO_NEEDED "${have#go}" || fail "Go $GO_NEEDED or newer is needed, this is ${have#go}: https://go.dev/doc/install"
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; } # at_least NEEDED HAVE

# A program that proves the package, then the package. By program, because there are other ways to have it:
# containerd comes with Docker too, under another package's name that Debian's would replace.
BED_PACKAGES=(
  containerd=containerd runc=runc /usr/lib/cni/ptp=containernetworking-plugins etcd=etcd-server ip=iproute2
  iptables=iptables nft=nftables buildah=buildah openssl=openssl nsenter=util-linux setpriv=util-linux
)
BUILD_PACKAGES=(cc=gcc /usr/share/doc/libc6-dev=libc6-dev)
CLIENT_PACKAGES=(python3=python3-venv)

missing_packages() { # missing_packages PROGRAM=PACKAGE...: the packages whose program is not here
  local entry
  for entry in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${entry%%=*}" >/dev/null || [ -e "${entry%%=*}" ] || echo "${entry#*=}"
  done | sort -u
}

install_packages() { # install_packages PROGRAM=PACKAGE...: only what is missing
  local packages
  mapfile -t packages < <(missing_packages "$@")
  # python3 alone is not enough: Debian keeps the venv module in a package of its own.
  if [[ " $* " == *=python3-venv* ]] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then packages+=(python3-venv); fi
  if [ ${#packages[@]} = 0 ]; then
    remark "all there"
    return
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  # --no-remove: never at the cost of something that the machine's owner has installed.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --no-remove "${packages[@]}"
  stop_services_of "${packages[@]}"
  remark "installed ${packages[*]}"
}

# Debian starts a server with its package. The programs are wanted here, not a second etcd on the machine's own ports.
stop_services_of() {
  local package
  [ -d /run/systemd/system ] || return 0
  for package in "$@"; do
    case $package in
      etcd-server) as_root systemctl disable --now etcd ;;
      containerd | memcached | nftables) as_root systemctl disable --now "$package" ;;
    esac
  done
}
