# shellcheck shell=bash
# The nodes. Each is a network namespace and a mount and host-name namespace with a containerd, a kubelet and a
# kube-proxy of its own. A process that only sleeps holds a node's namespaces, so that the kubelet can be stopped and
# started again inside them. All mounts of pods are in there: they vanish with the node's last process.

MAX_NODES=20

node_address() { echo "172.30.0.$((10 + $1))"; }
node_pods() { echo "10.244.$1"; }

create_node() { # create_node INDEX COUNT: network, certificate and configuration
  local index=$1 count=$2 name=node$1 other
  mkdir -p "$STATE/$name"/{cni,ipam}
  ip netns add "$BED-$index"
  in_network ip link add "$name" type veth peer name eth0 netns "$BED-$index"
  in_network ip link set "$name" master lan up
  in_network ip route add "$(node_pods "$index").0/24" via "$(node_address "$index")"
  nsenter --net="/run/netns/$BED-$index" bash -euc "
    ip link set lo up
    ip addr add $(node_address "$index")/24 dev eth0
    ip link set eth0 up
    ip route add default via $CONTROL_PLANE_ADDRESS
    sysctl -qw net.ipv4.ip_forward=1"
  for ((other = 0; other < count; other++)); do
    [ "$other" = "$index" ] ||
      nsenter --net="/run/netns/$BED-$index" ip route add "$(node_pods "$other").0/24" via "$(node_address "$other")"
  done
  issue_certificate "$name" "/O=system:nodes/CN=system:node:$name" "DNS:$name,IP:$(node_address "$index")"
  write_kubeconfig "$name" >"$STATE/$name/kubeconfig"
  write_containerd_configuration "$STATE/$name"
  write_pod_network "$STATE/$name" "$(node_pods "$index").0/24"
  write_kubelet_configuration "$name" "$count"
  create_cgroup "$BED/$name"
}

write_containerd_configuration() { # write_containerd_configuration FOLDER
  cat >"$1/containerd.toml" <<END
version = 2
root = "$1/cri/root"
state = "$1/cri/state"
[grpc]
  address = "$1/cri.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$1/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  netns_mounts_under_state_dir = true # pods' network namespaces: in the bed's own folder
  restrict_oom_score_adj = true       # where the machine gives no right to lower it, runc dies at its start without this
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$1/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
END
}

# ptp, not bridge: every packet of a pod is routed. On a bridge, the reply between two pods of one node would go past
# the address translation of Services, unless the machine's own bridges were filtered too (br_netfilter).
write_pod_network() { # write_pod_network FOLDER SUBNET
  cat >"$1/cni/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": "$1/ipam", "ranges": [[{"subnet": "$2"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
}

write_kubelet_configuration() { # write_kubelet_configuration NAME COUNT
  local folder=$STATE/$1 total
  total=$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)
  cat >"$folder/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $STATE/pki/$1.crt
tlsPrivateKeyFile: $STATE/pki/$1.key
containerRuntimeEndpoint: unix://$folder/cri.sock
cgroupDriver: cgroupfs
cgroupRoot: /$BED/$1        # one subtree a node
failCgroupV1: false
failSwapOn: false
# Every kubelet takes the whole machine for its own. The nodes share three quarters of its memory; processors are
# overcommitted, because a share of a small machine's would hold no pod at all.
systemReserved: {memory: "$((total - total * 3 / 4 / $2))Ki"}
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100 # there is no registry: an image that is collected is gone
imageGCLowThresholdPercent: 99
localStorageCapacityIsolation: false
oomScoreAdj: 0
resolvConf: ""
clusterDNS: [$DNS_SERVICE_ADDRESS]
clusterDomain: cluster.local
podLogsDir: $folder/podlogs
volumePluginDir: $folder/volumeplugins
END
}

# containerd, CNI and the kubelet have paths below /run, /var/lib and /var/log built in. Every node gets its own of these
# three, empty but for the bed's folder, so nothing of a node is seen, shared or left on the machine.
node_namespaces() { # node_namespaces NAME: what runs in them first
  cat <<END
hostname $1
mount -t tmpfs $BED /run
mkdir /run/bed
mount --bind $STATE /run/bed
mount -t tmpfs $BED /var/log
mount -t tmpfs $BED /var/lib
mkdir -p $STATE /var/lib/cni /var/lib/kubelet
mount --move /run/bed $STATE
touch $STATE/$1/namespaces
exec sleep infinity
END
}

start_node() { # start_node INDEX
  local name=node$1
  start_component "$name-namespaces" unshare --mount --uts --propagation private nsenter --net="/run/netns/$BED-$1" \
    bash -euc "$(node_namespaces "$name")"
  wait_until "$START_SECONDS" "the namespaces of $name" test -e "$STATE/$name/namespaces"
  start_in_node "$1" containerd containerd -c "$STATE/$name/containerd.toml"
  wait_until "$START_SECONDS" "containerd of $name" ctr -a "$STATE/$name/cri.sock" version
  import_image "$1" "$STATE/images/pause.tar"
  start_in_node "$1" kube-proxy "$STATE/bin/kube-proxy" --kubeconfig="$KUBECONFIG_FILE" --hostname-override="$name" \
    --cluster-cidr="$POD_NETWORK" --proxy-mode=nftables --conntrack-max-per-core=0
  start_kubelet "$1"
}

start_in_node() { # start_in_node INDEX COMPONENT COMMAND...: within the node's namespaces
  local index=$1 component=$2 holder
  shift 2
  holder=$(component_pid "node$index-namespaces")
  [ -n "$holder" ] || fail "node$index is not running: its namespaces are gone"
  start_component "node$index-$component" nsenter --target "$holder" --mount --uts --net "$@"
}

start_kubelet() { # start_kubelet INDEX
  local name=node$1
  start_in_node "$1" kubelet "$STATE/bin/kubelet" --config="$STATE/$name/kubelet.yaml" --kubeconfig="$STATE/$name/kubeconfig" \
    --hostname-override="$name" --root-dir="$STATE/$name/kubelet" --cert-dir="$STATE/$name/pki" --node-ip="$(node_address "$1")"
}

import_image() { # import_image INDEX ARCHIVE
  ctr -a "$STATE/node$1/cri.sock" -n k8s.io images import "$2"
}

node_count() { cat "$STATE/nodes"; }

nodes_are_ready() { [ "$(kubectl get nodes --no-headers | grep -cw Ready)" = "$1" ]; }

# The control plane's namespace has a kube-proxy too: commands that run there reach Services. It borrows node0's name,
# because it wants a Node to exist.
start_network_proxy() {
  start_in_network kube-proxy "$STATE/bin/kube-proxy" --kubeconfig="$KUBECONFIG_FILE" --hostname-override=node0 \
    --cluster-cidr=$POD_NETWORK --proxy-mode=nftables --conntrack-max-per-core=0
}
