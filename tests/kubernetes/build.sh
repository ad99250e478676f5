#!/usr/bin/env bash
# Builds Kubernetes, etcd, containerd, the CNI plugins and CoreDNS from pinned Go modules, once per version,
# into ~/.cache. Usage: build.sh [NAME...] ; prints the folder that holds the programs on standard output.
#
# Safe to call from many processes at once (flock); a program is renamed into place only when it is whole,
# so an interrupted run leaves nothing that could be mistaken for a result.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

KUBERNETES=$(sed -n 's/^require k8s.io\/kubernetes //p' go.mod)
ETCD=$(sed -n 's/^require go.etcd.io\/etcd\/server\/v3 //p' go.mod)
CONTAINERD=v2.4.2
CNI=v1.9.1
COREDNS=v1.15.0
CONTROL_PLANE=(etcd kube-apiserver kubectl)
NODE=(kubeadm kubelet kube-controller-manager kube-scheduler kube-proxy containerd containerd-shim-runc-v2 ctr
  bridge loopback host-local portmap coredns)

root=${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}
bin=$root/kubernetes-$KUBERNETES-etcd-$ETCD-containerd-$CONTAINERD-cni-$CNI-coredns-$COREDNS
mkdir -p "$bin"

case ${1:-control-plane} in
  --dir) echo "$bin"; exit 0 ;;
  control-plane) wanted=("${CONTROL_PLANE[@]}") ;;
  all) wanted=("${CONTROL_PLANE[@]}" "${NODE[@]}") ;;
  *) wanted=("$@") ;;
esac

stamp=k8s.io/component-base/version
minor=$(cut -d. -f2 <<<"$KUBERNETES")
ldflags="-s -w"
for p in $stamp k8s.io/client-go/pkg/version; do
  ldflags+=" -X $p.gitVersion=$KUBERNETES -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
  ldflags+=" -X $p.gitCommit=$KUBERNETES -X $p.buildDate=2026-01-01T00:00:00Z"
done

export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-trimpath
installed() { # PACKAGE@VERSION NAME [TAGS]: builds one program of another module, in its own module graph
  GOBIN=$work go install -ldflags "-s -w" ${3:+-tags "$3"} "$1"
}
build() {
  case $1 in
    etcd) go build -mod=readonly -ldflags "-s -w" -o "$work/etcd" go.etcd.io/etcd/server/v3 ;;
    kube-* | kubeadm | kubelet | kubectl) go build -mod=readonly -ldflags "$ldflags" -o "$work/$1" "k8s.io/kubernetes/cmd/$1" ;;
    containerd | containerd-shim-runc-v2 | ctr)
      installed "github.com/containerd/containerd/v2/cmd/$1@$CONTAINERD" "$1" "no_btrfs no_zfs no_devmapper" ;;
    bridge | loopback) installed "github.com/containernetworking/plugins/plugins/main/$1@$CNI" "$1" ;;
    host-local) installed "github.com/containernetworking/plugins/plugins/ipam/$1@$CNI" "$1" ;;
    portmap) installed "github.com/containernetworking/plugins/plugins/meta/$1@$CNI" "$1" ;;
    coredns) installed "github.com/coredns/coredns@$COREDNS" "$1" ;;
    *) echo "build.sh: unknown program '$1'; known: ${CONTROL_PLANE[*]} ${NODE[*]}, or control-plane, all" >&2; exit 2 ;;
  esac
}

missing=()
for name in "${wanted[@]}"; do [ -x "$bin/$name" ] || missing+=("$name"); done
if [ ${#missing[@]} -gt 0 ]; then
  command -v go >/dev/null || { echo "build.sh: Go is needed to build ${missing[*]}; install Go 1.26 or newer" >&2; exit 1; }
  export GOCACHE=$root/go-build
  n=0
  for name in "${missing[@]}"; do
    n=$((n + 1))
    exec 9>"$bin/.lock-$name"
    flock 9
    if [ ! -x "$bin/$name" ]; then
      echo "[$n/${#missing[@]}] building $name ($KUBERNETES; the first program takes minutes, the rest share its work)" >&2
      work=$(mktemp -d "$bin/.build-XXXXXX")
      start=$SECONDS
      build "$name" >&2 || { rm -rf "$work"; echo "build.sh: building $name failed" >&2; exit 1; }
      mv "$work/$name" "$bin/$name"
      rm -rf "$work"
      echo "[$n/${#missing[@]}] built $name in $((SECONDS - start)) s" >&2
    fi
    exec 9>&-
  done
  # With all of them there nobody builds any more, and their parts take six times their room.
  [ "${1:-}" != all ] || rm -rf "$GOCACHE"
fi
echo "$bin"
