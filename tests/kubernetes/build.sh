#!/usr/bin/env bash
# Builds Kubernetes, etcd, containerd, the CNI plugins, CoreDNS and Helm from pinned Go modules, once per version,
# into ~/.cache. Usage: build.sh [NAME...], or `all` and more names; prints the folder that holds the programs on standard output.
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
# A test's tool, and no part of the folder's name: another version must not build all the rest again. Remove the program after a change.
HELM=v3.22.0
CONTROL_PLANE=(etcd kube-apiserver kubectl)
NODE=(kubeadm kubelet kube-controller-manager kube-scheduler kube-proxy containerd containerd-shim-runc-v2 ctr
  bridge loopback host-local portmap coredns)

root=${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}
bin=$root/kubernetes-$KUBERNETES-etcd-$ETCD-containerd-$CONTAINERD-cni-$CNI-coredns-$COREDNS
mkdir -p "$bin"

case ${1:-control-plane} in
  --dir) echo "$bin"; exit 0 ;;
  control-plane) wanted=("${CONTROL_PLANE[@]}") ;;
  all) wanted=("${CONTROL_PLANE[@]}" "${NODE[@]}" "${@:2}") ;;
  *) wanted=("$@") ;;
esac

stamp=k8s.io/component-base/version
minor=$(cut -d. -f2 <<<"$KUBERNETES")
ldflags="-s -w"
for p in $stamp k8s.io/client-go/pkg/version; do
  ldflags+=" -X $p.gitVersion=$KUBERNETES -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean"
  ldflags+=" -X $p.gitCommit=$KUBERNETES -X $p.buildDate=2026-01-01T00:00:00Z"
done

# The compiler works on one package per process, each short and small: it is faster when it hardly collects garbage.
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-trimpath GOGC=400
# Programs of one module are built by one command, so that one is linked while another is compiled.
declare -A packages=()
for name in "${wanted[@]}"; do
  case $name in
    etcd) module=kubernetes package=go.etcd.io/etcd/server/v3 ;;
    kube-* | kubeadm | kubelet | kubectl) module=kubernetes package=k8s.io/kubernetes/cmd/$name ;;
    containerd | containerd-shim-runc-v2 | ctr) module=containerd package=github.com/containerd/containerd/v2/cmd/$name@$CONTAINERD ;;
    bridge | loopback) module=cni package=github.com/containernetworking/plugins/plugins/main/$name@$CNI ;;
    host-local) module=cni package=github.com/containernetworking/plugins/plugins/ipam/$name@$CNI ;;
    portmap) module=cni package=github.com/containernetworking/plugins/plugins/meta/$name@$CNI ;;
    coredns) module=coredns package=github.com/coredns/coredns@$COREDNS ;;
    helm) module=helm package=helm.sh/helm/v3/cmd/helm@$HELM ;;
    *) echo "build.sh: unknown program '$name'; known: ${CONTROL_PLANE[*]} ${NODE[*]} helm, or control-plane, all" >&2; exit 2 ;;
  esac
  packages[$module]+=" $name=$package"
done

build() { # MODULE PACKAGE...: the module's own graph decides on dependencies; Kubernetes' and etcd's is go.mod here
  case $1 in
    kubernetes) go build -v -mod=readonly -ldflags "$ldflags" -o "$work/" "${@:2}" ;;
    *) GOBIN=$work go install -v -ldflags "-s -w" -tags no_btrfs,no_zfs,no_devmapper "${@:2}" ;;
  esac
}
progress() { # names of compiled packages become a count, everything else is shown
  awk '/^[^ :]+$/ { if (++n % 250 == 0) print "  " n " packages"; next } { print } { fflush() }' >&2
}

exec 9>"$bin/.lock"
flock 9
for module in kubernetes containerd cni coredns helm; do
  names=() missing=()
  for pair in ${packages[$module]:-}; do
    [ -x "$bin/${pair%%=*}" ] || { names+=("${pair%%=*}"); missing+=("${pair#*=}"); }
  done
  [ ${#missing[@]} -gt 0 ] || continue
  command -v go >/dev/null || { echo "build.sh: Go is needed to build ${names[*]}; install Go 1.26 or newer" >&2; exit 1; }
  export GOCACHE=$root/go-build
  echo "building ${names[*]}; 250 packages take about a minute" >&2
  rm -rf "$bin"/.build-*
  work=$(mktemp -d "$bin/.build-XXXXXX")
  start=$SECONDS
  # Go asks its proxy once for each module, and a proxy may be away for a moment; what came needn't be asked for again.
  for pause in 10 30 end; do
    ! build "$module" "${missing[@]}" 2>&1 | progress || break
    [ "$pause" != end ] || { rm -rf "$work"; echo "build.sh: building ${names[*]} failed three times" >&2; exit 1; }
    echo "build.sh: building ${names[*]} failed; once more in $pause s" >&2
    sleep "$pause"
  done
  # The command of etcd's module carries the name of its folder.
  [ ! -e "$work/server" ] || mv "$work/server" "$work/etcd"
  for name in "${names[@]}"; do mv "$work/$name" "$bin/$name"; done
  rm -rf "$work"
  echo "built ${names[*]} in $((SECONDS - start)) s" >&2
done
# With all of them there nobody builds any more, and their parts take six times their room.
[ "${1:-}" != all ] || rm -rf "$root/go-build"
exec 9>&-
echo "$bin"
