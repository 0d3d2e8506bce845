# shellcheck shell=bash
# What goes into a cluster: the Helm chart, the sample CacheCluster, and an ordinary client that uses it. The cluster
# is the local one, or with CONTEXT set another one that kubectl and helm know by that name.

CHART=$REPOSITORY/charts/gannet
DEMO=$REPOSITORY/deploy/samples/demo.yaml
PORT=11211
READY_SECONDS=240

CONTEXT=${CONTEXT:-}
HELM_ARGUMENTS=() # from the command line, for the chart

cluster_kubectl() { if [ -n "$CONTEXT" ]; then "$(program kubectl)" --context "$CONTEXT" "$@"; else kubectl "$@"; fi; }
cluster_helm() {
  if [ -n "$CONTEXT" ]; then "$(program helm)" --kube-context "$CONTEXT" "$@"; else "$LOCAL/helm" "$@"; fi
}

program() { type -P "$1" || echo "$(kubernetes_folder)/bin/$1"; } # one that is installed, or ours

# The release carries the hash of what it was made from as a label: whether there is anything to do is asked of the
# cluster, not remembered.
install_chart() {
  local sources
  sources=$(release_sources)
  if [ -n "$(cluster_helm list --namespace "$NAMESPACE" --deployed --selector "sources=$sources" --short 2>/dev/null)" ]; then
    remark "unchanged"
    return
  fi
  forget_unfinished_releases
  cluster_helm upgrade --install gannet "$CHART" --namespace "$NAMESPACE" --create-namespace \
    --labels "sources=$sources" --reset-values --wait --timeout "${READY_SECONDS}s" "${HELM_ARGUMENTS[@]}" || {
    explain_operator
    return 1
  }
  remark "$(cluster_helm list --namespace "$NAMESPACE" | awk '$1 == "gannet" {print "revision " $3}')"
}

# A helm that was killed leaves its revision 'pending', and every later one refuses to start.
forget_unfinished_releases() {
  cluster_kubectl --namespace "$NAMESPACE" delete secret --ignore-not-found \
    --selector 'owner=helm,name=gannet,status in (pending-install, pending-upgrade, pending-rollback)' >/dev/null
}

release_sources() {
  {
    find "$CHART" -type f -print0 | sort -z | xargs -0 sha256sum
    echo "${HELM_ARGUMENTS[@]}"
  } | sha256sum | cut -c1-16
}

explain_operator() {
  cluster_kubectl --namespace "$NAMESPACE" get pods -o wide
  cluster_kubectl --namespace "$NAMESPACE" get events --sort-by=.lastTimestamp | tail -n 10
  cluster_kubectl --namespace "$NAMESPACE" logs --all-containers --prefix --tail 5 --selector app.kubernetes.io/name=gannet
}

# A rebuilt image keeps its tag, so nothing in the cluster asks for it: what runs the old one is restarted.
restart_operator() {
  cluster_kubectl --namespace "$NAMESPACE" rollout restart deployment
  cluster_kubectl --namespace "$NAMESPACE" rollout status deployment --timeout "${READY_SECONDS}s"
}

restart_demo() { # one by one; a pod that does not come back ends it, with the others untouched
  local pod
  for pod in $(demo_pods); do
    cluster_kubectl delete pod "$pod" --ignore-not-found
    cluster_kubectl wait --for=create pod "$pod" --timeout "${READY_SECONDS}s"
    cluster_kubectl wait --for=condition=Ready pod "$pod" --timeout "${READY_SECONDS}s" || {
      explain_demo
      return 1
    }
  done
}

apply_demo() { remark "$(cluster_kubectl apply -f "$DEMO" | tail -n 1)"; }

demo_ready() {
  local deadline=$((SECONDS + READY_SECONDS)) generation observed ready message
  while true; do
    read -r generation observed ready message < <(demo_condition && echo)
    # What the operator says of an earlier specification does not count.
    [ "$generation" != "$observed" ] || [ "$ready" != True ] || return 0
    [ $SECONDS -lt $deadline ] || break
    echo "$message" # what the step shows while it waits
    sleep 0.5
  done
  explain_demo
  return 1
}

demo_condition() {
  cluster_kubectl get cachecluster demo -o jsonpath='{.metadata.generation} {.status.observedGeneration} {range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}'
}

explain_demo() {
  cluster_kubectl get cachecluster demo -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}'
  cluster_kubectl get pods -o wide
  cluster_kubectl get events --sort-by=.lastTimestamp | grep Warning | tail -n 5
  cluster_kubectl logs --selector app.kubernetes.io/instance=demo --prefix --tail 3
}

demo_replicas() { cluster_kubectl get statefulset demo -o jsonpath='{.status.readyReplicas}/{.spec.replicas}'; }

demo_pods() { # their names, in order
  local count
  count=$(cluster_kubectl get statefulset demo -o jsonpath='{.spec.replicas}')
  seq -f 'demo-%g' 0 $((count - 1))
}

prepare_client() {
  local folder
  folder=$(client_folder)
  if [ -x "$folder/bin/python" ]; then
    remark "built before"
    return
  fi
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$LOCAL/client/requirements.txt" || {
    rm -rf "$folder"
    return 1
  }
}

client_folder() { echo "$GANNET_CACHE/client-$(sha256sum <"$LOCAL/client/requirements.txt" | cut -c1-16)"; }

use_demo() {
  if [ -n "$CONTEXT" ]; then use_demo_through_port_forward; else use_demo_by_names; fi
}

use_demo_by_names() {
  local service pod addresses=()
  service=$(cluster_kubectl get statefulset demo -o jsonpath='{.spec.serviceName}')
  for pod in $(demo_pods); do addresses+=("$pod.$service.default.svc.cluster.local:$PORT"); done
  "$LOCAL/exec" -- "$(client_folder)/bin/python" "$LOCAL/client/set_and_get.py" "${addresses[@]}"
}

# Another cluster's pods have no address here: one of them is reached through the API server.
use_demo_through_port_forward() {
  local output port="" forwarding state=0
  output=$(mktemp)
  "$(program kubectl)" --context "$CONTEXT" port-forward pod/demo-0 ":$PORT" >"$output" 2>&1 &
  forwarding=$!
  for _ in {1..100}; do
    port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$output")
    [ -z "$port" ] || break
    sleep 0.1
  done
  if [ -n "$port" ]; then
    "$(client_folder)/bin/python" "$LOCAL/client/set_and_get.py" "127.0.0.1:$port" || state=1
  else
    echo "kubectl port-forward to pod/demo-0 did not come up: $(cat "$output")"
    state=1
  fi
  kill $forwarding
  rm -f "$output"
  return $state
}
