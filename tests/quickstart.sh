#!/usr/bin/env bash
# The demo's story on the `simulated` provider: no VMs, no root, nothing proved. Usage: tests/quickstart.sh
# Idempotent; an interrupted run is cleaned up by the next one.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

dir=$PWD/target/quickstart
bin=$PWD/target/debug
log=$dir/logs
began=$SECONDS

say() { printf '\n\033[1m[%4d s] %s\033[0m\n' $((SECONDS - began)) "$*"; }
fail() { printf '\n[%4d s] quickstart failed: %s\n  logs: %s\n' $((SECONDS - began)) "$*" "$log" >&2; exit 1; }

stop() { # PIDFILE: ends a process of ours and waits for it
  [ -s "$1" ] || return 0
  local pid; pid=$(cat "$1"); rm -f "$1"
  grep -qs "$dir" "/proc/$pid/cmdline" || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || return 0
}
clean() {
  stop "$dir/operator.pid"
  stop "$dir/management.pid"
  rm -rf "$dir/management" "$dir/local" "$dir"/*.kubeconfig
}
mkdir -p "$log"
clean
trap 'status=$?; if [ $status -ne 0 ]; then kubectl get cc,cnode,nv,ng 2>/dev/null || :; fi; clean; exit $status' EXIT

say "Kubernetes and our programs (the first run takes minutes)"
tools=$(tests/kubernetes/build.sh control-plane)
PATH=$tools:$PATH
cargo build -q -p constellation-operator --bin constellation-operator
cargo build -q -p constellation-tests --bin constellation-testenv
built=$SECONDS

say "a management cluster: etcd and kube-apiserver on loopback"
export KUBECONFIG=$dir/management.kubeconfig
"$bin/constellation-testenv" --dir "$dir/management" --kubeconfig "$KUBECONFIG" </dev/null >"$log/management.log" 2>&1 &
echo $! >"$dir/management.pid"
for _ in $(seq 1800); do
  [ -s "$KUBECONFIG" ] && break
  kill -0 "$(cat "$dir/management.pid")" 2>/dev/null || fail "the management API server did not come up"
  sleep 0.1
done
[ -s "$KUBECONFIG" ] || fail "the management API server did not come up in three minutes"
kubectl apply --server-side -f charts/constellation-crds/crds -f charts/constellation-crds/templates >/dev/null
kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null
"$bin/constellation-operator" run --allow-simulated --local-state-dir "$dir/local" >"$log/operator.log" 2>&1 &
echo $! >"$dir/operator.pid"

watch() { # SECONDS CONDITION-COMMAND: shows the tree whenever it changes, until the condition holds
  local limit=$1 before="" now; shift
  local until=$((SECONDS + limit))
  while :; do
    now=$(kubectl get cc quickstart -o jsonpath='{.metadata.name}  {.status.summary}' 2>/dev/null || :)$'\n'$(kubectl get cnode -o jsonpath='{range .items[*]}   {.metadata.name}  {.status.phase}  {.status.summary}{"\n"}{end}' 2>/dev/null || :)
    if [ "$now" != "$before" ]; then printf '[%4d s] %s\n' $((SECONDS - began)) "$now"; before=$now; fi
    "$@" && return 0
    [ $SECONDS -lt $until ] || return 1
    kill -0 "$(cat "$dir/operator.pid")" 2>/dev/null || fail "the operator ended; see $log/operator.log"
    sleep 0.5
  done
}
condition() { [ "$(kubectl get cc quickstart -o jsonpath="{.status.conditions[?(@.type=='$1')].status}" 2>/dev/null)" = True ]; }
workers() { [ "$(kubectl get ng quickstart-workers -o jsonpath='{.status.readyReplicas}')" = "$1" ] && condition Ready; }

say "kubectl apply -f examples/simulated (these nodes prove nothing, and say so)"
kubectl apply -f examples/simulated/nodeversion.yaml -f examples/simulated/cluster.yaml
watch 60 condition Ready || fail "the cluster was not Ready in a minute"
kubectl get cc,ng,cnode
kubectl get nodes

say "a machine that booted another image"
kubectl get cnode -l constellation.dev/role=worker -o json | jq \
  '.items[0] | {apiVersion, kind, metadata: {name: "quickstart-tampered", labels: .metadata.labels}, spec: (.spec | .image = "v1-tampered" | .index = 90)}' |
  kubectl apply -f - >/dev/null
refused() { [ "$(kubectl get cnode quickstart-tampered -o jsonpath='{.status.attestation.verdict}' 2>/dev/null)" = Refused ]; }
watch 60 refused || fail "the machine was not refused in a minute"
kubectl get cnode quickstart-tampered -o jsonpath='{range .status.attestation.mismatches[*]}  {.clause}{"\n"}    expected {.expected}{"\n"}    actual   {.actual}{"\n"}    {.message}{"\n"}{end}'
kubectl delete cnode quickstart-tampered --timeout=60s --wait

say "scale to three workers"
kubectl scale ng quickstart-workers --replicas=3
watch 60 workers 3 || fail "the third worker was not Ready in a minute"

say "roll every node to the second image"
kubectl apply -f examples/simulated/nodeversion-v2.yaml
rolled() { condition Ready && condition NodesUpToDate && ! kubectl get cnode -o jsonpath='{.items[*].spec.image}' | grep -qw v1; }
watch 120 rolled || fail "the roll did not finish in two minutes"
kubectl get cc,cnode

say "delete"
kubectl delete cc quickstart --timeout=60s
left=$(kubectl get configmap -A -l constellation.dev/simulated -o name; kubectl get nodes -o name)
[ -z "$left" ] || fail "left behind: $left"
say "done: nothing is left; $((SECONDS - built)) s once built"
