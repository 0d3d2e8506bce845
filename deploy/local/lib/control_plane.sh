# shellcheck shell=bash
# The control plane: etcd, API server, controllers, scheduler and the cluster's DNS, in a network namespace that also
# holds the network between the nodes, and from which commands reach pods, Services and DNS names.

CONTROL_PLANE_ADDRESS=172.30.0.1
SERVICE_NETWORK=10.96.0.0/16
API_SERVICE_ADDRESS=10.96.0.1
DNS_SERVICE_ADDRESS=10.96.0.10
POD_NETWORK=10.244.0.0/16 # a /24 of it for each node
START_SECONDS=${GANNET_START_SECONDS:-120} # a slow machine may need more

create_authority() {
  (
    cd "$STATE/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 3650 -subj "/CN=$BED"
    openssl ecparam -name prime256v1 -genkey -noout -out sa.key
    openssl ec -in sa.key -pubout -out sa.pub
  ) 2>>"$STATE/logs/certificates.log"
  issue_certificate apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$API_SERVICE_ADDRESS,IP:$CONTROL_PLANE_ADDRESS"
  issue_certificate admin /O=system:masters/CN=admin DNS:admin
  write_kubeconfig admin >"$KUBECONFIG_FILE"
  # The user who started the cluster uses it, also in commands that run as that user.
  [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-0}" "$KUBECONFIG_FILE"
}

issue_certificate() { # issue_certificate NAME SUBJECT ALTERNATIVE_NAMES
  (
    cd "$STATE/pki"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" -extfile <(echo "subjectAltName=$3")
  ) 2>>"$STATE/logs/certificates.log"
}

write_kubeconfig() { # write_kubeconfig NAME: complete in one file, so that it can be given to another user
  cat <<END
apiVersion: v1
kind: Config
clusters: [{name: $BED, cluster: {server: "https://$CONTROL_PLANE_ADDRESS:6443", certificate-authority-data: $(base64 -w0 "$STATE/pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$STATE/pki/$1.crt"), client-key-data: $(base64 -w0 "$STATE/pki/$1.key")}}]
contexts: [{name: $BED, context: {cluster: $BED, user: $1}}]
current-context: $BED
END
}

create_network() {
  ip netns add "$BED"
  in_network bash -euc "
    ip link set lo up
    ip link add lan type bridge
    ip addr add $CONTROL_PLANE_ADDRESS/24 dev lan
    ip link set lan up
    ip route add default via 172.30.0.254 # leads nowhere: components refuse to start without a default route
    sysctl -qw net.ipv4.ip_forward=1"
}

start_in_network() { # start_in_network NAME COMMAND...
  local name=$1
  shift
  start_component "$name" nsenter --net="/run/netns/$BED" "$@"
}

start_control_plane() {
  local pki=$STATE/pki
  create_network
  start_in_network etcd etcd --data-dir "$STATE/etcd" --unsafe-no-fsync --listen-peer-urls http://127.0.0.1:2380 \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
  start_in_network kube-apiserver "$STATE/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --secure-port=6443 --advertise-address=$CONTROL_PLANE_ADDRESS --cert-dir="$pki" \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=$SERVICE_NETWORK \
    --authorization-mode=Node,RBAC --allow-privileged=true \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" --kubelet-preferred-address-types=InternalIP
  wait_until "$START_SECONDS" "the API server" kubectl get --raw /readyz
  start_in_network kube-controller-manager "$STATE/bin/kube-controller-manager" --kubeconfig="$KUBECONFIG_FILE" \
    --leader-elect=false --use-service-account-credentials --service-account-private-key-file="$pki/sa.key" \
    --root-ca-file="$pki/ca.crt" --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --service-cluster-ip-range=$SERVICE_NETWORK
  start_in_network kube-scheduler "$STATE/bin/kube-scheduler" --kubeconfig="$KUBECONFIG_FILE" --leader-elect=false
  start_dns
}

# A process beside the control plane, behind a Service without a selector: no image, and it answers before any node.
start_dns() {
  cat >"$STATE/Corefile" <<END
.:53 {
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $KUBECONFIG_FILE $BED
  }
}
END
  start_in_network coredns "$STATE/bin/coredns" -conf "$STATE/Corefile"
  kubectl apply -f - <<END
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: $DNS_SERVICE_ADDRESS, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [$CONTROL_PLANE_ADDRESS]}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
END
  # What 'exec' shows to its command in place of the machine's own files.
  printf 'nameserver %s\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n' \
    $CONTROL_PLANE_ADDRESS >"$STATE/resolv.conf"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$STATE/nsswitch.conf"
}
