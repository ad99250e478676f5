#!/usr/bin/env bash
# Starts a pod on each worker and lets each fetch a page from the other. Usage: demo-pods.sh KUBECONFIG
set -euo pipefail
k() { kubectl --kubeconfig "$1" --request-timeout=60s "${@:2}"; }
config=$1
mapfile -t workers < <(k "$config" get nodes -l '!node-role.kubernetes.io/control-plane' -o name | cut -d/ -f2 | sort)
[ ${#workers[@]} -ge 2 ] || { echo "two workers are needed, there are ${#workers[@]}" >&2; exit 1; }
for i in 0 1; do
  cat <<Y
---
apiVersion: v1
kind: Pod
metadata: { name: peer-$i, labels: { app: peer } }
spec:
  nodeName: ${workers[$i]}
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
    - name: web
      image: constellation.dev/busybox:1
      imagePullPolicy: Never
      command: [/bin/busybox, sh, -c, "mkdir -p /tmp/www; echo hello from \$NODE > /tmp/www/index.html; exec /bin/busybox httpd -f -p 80 -h /tmp/www"]
      env: [{ name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }]
Y
done | k "$config" apply -f - >/dev/null
k "$config" wait --for=condition=Ready pod/peer-0 pod/peer-1 --timeout=300s >/dev/null
for pair in "0 1" "1 0"; do
  read -r from to <<<"$pair"
  address=$(k "$config" get pod "peer-$to" -o jsonpath='{.status.podIP}')
  # Not wget: Debian's static busybox ends with SIGSEGV where it loads the C library's resolver.
  answer=$(k "$config" exec "peer-$from" -- /bin/busybox sh -c "printf 'GET / HTTP/1.0\r\n\r\n' | /bin/busybox nc -w 30 $address 80" | tail -1)
  echo "  pod on ${workers[$from]} asks $address: $answer"
  [ "$answer" = "hello from ${workers[$to]}" ]
done
k "$config" delete pod peer-0 peer-1 --wait=false >/dev/null
