#!/usr/bin/env bash
# The demo's story on the `simulated` provider: no VMs, no proof, two minutes once built.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
dir=$PWD/target/quickstart
bin=$PWD/target/debug
began=$SECONDS
say() { printf '\n[%3d s] %s\n' $((SECONDS - began)) "$*"; }
source tests/stop.sh
end() {
  stop "$dir/operator.pid"
  stop "$dir/management.pid"
}
trap 'status=$?; end; rm -rf "$dir/management"; exit $status' EXIT
mkdir -p "$dir"
end
rm -rf "$dir/management"

say "building (the first run takes minutes)"
tests/packages.sh
PATH=$(tests/kubernetes/build.sh control-plane):$PATH
cargo build -q -p constellation-operator -p constellation-tests --bins

say "a management cluster: etcd and kube-apiserver on loopback"
export KUBECONFIG=$dir/kubeconfig
rm -f "$KUBECONFIG"
"$bin/constellation-testenv" --dir "$dir/management" --kubeconfig "$KUBECONFIG" </dev/null >"$dir/management.log" 2>&1 &
echo $! >"$dir/management.pid"
for _ in $(seq 600); do [ -s "$KUBECONFIG" ] && kubectl get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
kubectl apply --server-side -f charts/constellation-crds/crds >/dev/null
kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null
# Alone, so without a lease: a laptop that sleeps would end it.
"$bin/constellation-operator" run --leader-elect=false --allow-simulated >"$dir/operator.log" 2>&1 &
echo $! >"$dir/operator.pid"

say "kubectl apply -f examples/simulated (SIMULATED: these nodes prove nothing)"
kubectl apply -f examples/simulated/nodeversion.yaml -f examples/simulated/cluster.yaml
kubectl wait --for=condition=Ready cc/quickstart --timeout=120s
kubectl get cc,cnode,nodes

say "scale to three workers"
kubectl scale ng quickstart-workers --replicas=3
kubectl wait --for=jsonpath='{.status.readyReplicas}'=3 ng/quickstart-workers --timeout=120s

say "roll every node to the second version"
kubectl apply -f examples/simulated/nodeversion-v2.yaml
kubectl wait --for=condition=Ready=False cc/quickstart --timeout=60s
kubectl wait --for=condition=Ready cc/quickstart --timeout=300s
kubectl get cc,cnode,nodes

say "delete"
kubectl delete cc quickstart --timeout=120s
kubectl get cnode,nodes
say "done"
