#!/usr/bin/env bash
# The demo: a local cluster of measured, attested VMs from `kubectl apply`, told on screen.
# Usage: tests/demo.sh [clean]. Idempotent; an interrupted run is cleaned up by the next one.
# With DEMO_KEEP=1 a failed run leaves everything running, to look at; `make clean-demo` ends it.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

dir=$PWD/target/demo
image=$PWD/target/image
cache=${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}
bin=$PWD/target/debug
log=$dir/logs
began=$SECONDS
declare -A figure

say() { printf '\n\033[1m[%4d s] %s\033[0m\n' $((SECONDS - began)) "$*"; }
fail() { printf '\n[%4d s] demo failed: %s\n  logs: %s\n' $((SECONDS - began)) "$*" "$log" >&2; exit 1; }

source tests/stop.sh

clean() {
  stop "$dir/operator.pid"
  for pid in "$dir"/local/*/supervisor.pid; do [ -e "$pid" ] && stop "$pid"; done
  stop "$dir/management.pid"
  rm -rf "$dir/local" "$dir/management" "$dir"/*.kubeconfig
}

leaks() { # processes, taps and folders that a cluster would leave behind
  pgrep -fa "qemu-system-x86_64.*$dir/local|swtpm.*$dir/local|local-supervisor.*$dir/local" || :
  find "$dir/local" -mindepth 1 -maxdepth 1 2>/dev/null || :
}

if [ "${1:-}" = clean ]; then
  clean
  echo "removed the demo's processes and state; images stay in target/image, tools in $cache"
  exit 0
fi
[ "$(id -u)" = 0 ] || fail "the local provider makes network namespaces: run as root"

mkdir -p "$dir" "$log"
clean
trap 'status=$?; [ ! -d "/proc/${tools_job:-none}" ] || kill -- "-$tools_job"; if [ $status -ne 0 ]; then kubectl get cc,cnode,nv,ng 2>/dev/null || :; fi; [ $status -ne 0 ] && [ -n "${DEMO_KEEP:-}" ] || clean; exit $status' EXIT

say "packages, Kubernetes and our programs (the first run takes minutes)"
tests/packages.sh
# Beside each other: both leave a core idle now and then. In a group of its own, so that all of it ends with us.
set -m
tests/kubernetes/build.sh all >/dev/null &
tools_job=$!
set +m
cargo build --bins
wait "$tools_job"
tools_job=
tools=$(tests/kubernetes/build.sh --dir)
PATH=$tools:$PATH
figure[build_seconds]=$((SECONDS - began))

say "two versions of the node image, and one with a byte of its command line changed"
build() { # VERSION REVISION [MORE...]
  "$bin/constellation-image" build --kubernetes-bin "$tools" --bootstrapper "$bin/constellation-bootstrapper" \
    --verifier "$bin/constellation-verifier" --cache "$cache/image" --out "$image/$1" --version "$1" --revision "$2" "${@:3}" >/dev/null
}
build v1 1
build v2 2 --signing-key "$image/v1/publisher.key.pem"
"$bin/constellation-image" tamper "$image/v1/image.raw" "$image/v1/tampered.raw"
figure[image_seconds]=$((SECONDS - began - figure[build_seconds]))

say "a management cluster: etcd and kube-apiserver on loopback"
"$bin/constellation-testenv" --dir "$dir/management" --kubeconfig "$dir/management.kubeconfig" </dev/null >"$log/management.log" 2>&1 &
echo $! >"$dir/management.pid"
export KUBECONFIG=$dir/management.kubeconfig
for _ in $(seq 600); do [ -s "$KUBECONFIG" ] && kubectl get --raw /readyz >/dev/null 2>&1 && break; sleep 0.1; done
kubectl get --raw /readyz >/dev/null || fail "the management API server did not come up"
kubectl apply --server-side -f charts/constellation-crds/crds >/dev/null
kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null

operator() {
  # Alone, so without a lease: a host that stands still for ten seconds, as VMs without KVM may make it, would end it.
  "$bin/constellation-operator" run --leader-elect=false --local-state-dir "$dir/local" "$@" >>"$log/operator.log" 2>&1 &
  echo $! >"$dir/operator.pid"
}
operator

say "kubectl apply -f examples/local"
kubectl create configmap demo-measurements --from-file=manifest.dsse.json="$image/v1/manifest.dsse.json" --dry-run=client -o yaml | kubectl apply -f - >/dev/null
nodeversion() { # VERSION CONFIGMAP
  cat <<Y
apiVersion: constellation.dev/v1alpha1
kind: NodeVersion
metadata: { name: demo }
spec:
  image: { local: $image/$1/image.raw }
  kubernetesVersion: v1.36.3
  measurements:
    signed:
      configMap: $2
      publicKey: |
$(sed 's/^/        /' "$image/v1/publisher.pub.pem")
Y
}
nodeversion v1 demo-measurements | kubectl apply -f - >/dev/null
kubectl apply -f examples/local/cluster.yaml
created=$SECONDS

watch() { # SECONDS CONDITION-COMMAND: shows the tree whenever it changes, until the condition holds
  local limit=$1 before="" now; shift
  local until=$((SECONDS + limit))
  while :; do
    now=$(kubectl get cc demo -o jsonpath='{.metadata.name}  {.status.summary}' 2>/dev/null || :)$'\n'$(kubectl get cnode -o jsonpath='{range .items[*]}   {.metadata.name}  {.status.phase}  {.status.summary}{"\n"}{end}' 2>/dev/null || :)
    if [ "$now" != "$before" ]; then printf '[%4d s] %s\n' $((SECONDS - began)) "$now"; before=$now; fi
    if [ -z "${figure[first_ticket_seconds]:-}" ] && kubectl get cnode -o jsonpath='{.items[*].status.attestation.verdict}' | grep -q 'Accepted'; then figure[first_ticket_seconds]=$((SECONDS - created)); fi
    "$@" && return 0
    [ $SECONDS -lt $until ] || return 1
    kill -0 "$(cat "$dir/operator.pid")" 2>/dev/null || fail "the operator ended; see $log/operator.log"
    sleep 2
  done
}
condition() { [ "$(kubectl get cc demo -o jsonpath="{.status.conditions[?(@.type=='$1')].status}" 2>/dev/null)" = True ]; }
watch 900 condition ControlPlaneInitialized || fail "the control plane did not come up in 15 minutes"
figure[control_plane_seconds]=$((SECONDS - created))
watch 1200 condition Ready || fail "the cluster was not Ready in time"
figure[ready_seconds]=$((SECONDS - created))

say "the cluster, through the kubeconfig of Secret demo-kubeconfig"
kubectl get secret demo-kubeconfig -o jsonpath='{.data.value}' | base64 -d >"$dir/demo.kubeconfig"
chmod 600 "$dir/demo.kubeconfig"
k() { kubectl --kubeconfig "$dir/demo.kubeconfig" --request-timeout=60s "$@"; }
k get nodes -o wide

say "a pod on each worker reaches the other, through the mesh"
tests/demo-pods.sh "$dir/demo.kubeconfig" || fail "a pod did not reach the other"

say "an image with one byte of its kernel command line changed, under the genuine measurements"
nodeversion v1 demo-measurements | sed 's|/v1/image.raw|/v1/tampered.raw|' | kubectl apply -f - >/dev/null
tampered() { kubectl get cnode -o json | jq -r '.items[] | select(.spec.image | endswith("tampered.raw")) | select(.status.attestation.verdict == "Refused") | .metadata.name' | head -1; }
refused() { [ -n "$(tampered)" ]; }
watch 400 refused || fail "the tampered VM was not refused"
kubectl get cnode "$(tampered)" -o json |
  jq -r '"  \(.metadata.name) is refused:", (.status.attestation.mismatches[] | "  \(.clause)\n    expected \(.expected)\n    actual   \(.actual)\n    \(.message)")'

say "nobody does anything: the version is given up, its VM goes after a minute, and the nodes of before stay"
gone() { [ -z "$(kubectl get cnode -o jsonpath='{.items[*].spec.image}' | grep tampered)" ]; }
back() { condition Stalled && [ "$(kubectl get cc demo -o jsonpath="{.status.conditions[?(@.type=='Ready')].reason}")" = RolledBack ] && gone; }
watch 400 back || fail "the version was not given up"
nodeversion v1 demo-measurements | kubectl apply -f - >/dev/null
settled() { condition Ready && gone; }
watch 400 settled || fail "the cluster did not settle after the refusal"

say "scale to three workers"
start=$SECONDS
kubectl scale ng demo-workers --replicas=3
three() { [ "$(kubectl get ng demo-workers -o jsonpath='{.status.readyReplicas}')" = 3 ]; }
watch 600 three || fail "the third worker was not Ready in 10 minutes"
figure[scale_seconds]=$((SECONDS - start))
kubectl scale ng demo-workers --replicas=1
one() { [ "$(kubectl get cnode -l constellation.dev/role=worker --no-headers | wc -l)" = 1 ]; }
watch 600 one || fail "scaling down took more than 10 minutes"

say "roll every node to the second image (without KVM the roll is shown on one control-plane node and one worker)"
start=$SECONDS
kubectl create configmap demo-measurements-v2 --from-file=manifest.dsse.json="$image/v2/manifest.dsse.json" --dry-run=client -o yaml | kubectl apply -f - >/dev/null
nodeversion v2 demo-measurements-v2 | kubectl apply -f - >/dev/null
rolled() { condition Ready && condition NodesUpToDate && ! kubectl get cnode -o jsonpath='{.items[*].spec.image}' | grep -q /v1/; }
watch 1800 rolled || fail "the roll did not finish in 30 minutes"
figure[roll_seconds]=$((SECONDS - start))
k get nodes -o wide
figure[operator_rss_mib]=$(($(awk '/VmRSS/{print $2}' "/proc/$(cat "$dir/operator.pid")/status") / 1024))

say "delete"
kubectl delete cc demo --timeout=300s
left=$(leaks)
figure[leaks]=$(grep -c . <<<"$left" || :)
[ -z "$left" ] || fail "left behind: $left"
echo "no process, disk or tap is left"

{
  echo "{"
  for key in build_seconds image_seconds first_ticket_seconds control_plane_seconds ready_seconds scale_seconds roll_seconds operator_rss_mib leaks; do
    printf '  "%s": %s,\n' "$key" "${figure[$key]:-null}"
  done
  printf '  "total_seconds": %d\n}\n' $((SECONDS - began))
} >"$dir/summary.json"
say "done"
cat "$dir/summary.json"
