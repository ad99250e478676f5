#!/usr/bin/env bash
# Runs every test, prints progress and, at the end, where the time went. Usage: tests/run.sh [STAGE...]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1
# What is compiled here is compiled once: the state for compiling it again would take more disk than the programs.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
# Lints come out of the build that the tests run: to check every room and then to build it would cost its time twice.
RUSTC_WORKSPACE_WRAPPER=$(rustc --print sysroot)/bin/clippy-driver
export RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__

stages=(packages tools format build generated unit cel attestation operator clouds processes crash image vm)
[ $# -gt 0 ] && stages=("$@")
times=()
free() { df --output=avail -BG . | tail -1 | tr -d ' '; }
echo "disk: $(free) free; what is built and what VMs write is about 25 GiB when all of it is new"
report() {
  local status=$?
  echo
  echo "disk: $(free) free"
  echo "where the time went:"
  printf '  %s\n' "${times[@]:-}"
  [ $status -eq 0 ] || echo "FAILED in stage '$stage'" >&2
  exit $status
}
trap report EXIT

# One choice of packages and features for all stages: with another one cargo builds anew whatever both are made from.
# AWS's SDK, which takes minutes and 7 GiB on one core, is compiled beside all the rest.
features=(--workspace --features "$(printf '%s,' constellation-{attestation/{channel,collect},crds/cel,tests/{vm,aws,azure,gcp}})")
tests() { cargo test "${features[@]}" "$@"; }
files() { # ROOM...: options that choose the tests of these rooms
  for room; do basename -s .rs -a "$room"/tests/*.rs; done | sed 's/^/--test=/'
}

image() { # VERSION [MORE...]: a node image below target/image
  target/debug/constellation-image build --kubernetes-bin "$(tests/kubernetes/build.sh --dir)" \
    --bootstrapper target/debug/constellation-bootstrapper --verifier target/debug/constellation-verifier \
    --cache "${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}/image" --out "target/image/$1" --version "$1" "${@:2}"
}

run() {
  case $1 in
    packages) tests/packages.sh ;;
    tools) tests/kubernetes/build.sh all >/dev/null ;;
    format) cargo fmt --all --check ;;
    build) cargo build --all-targets "${features[@]}" ;;
    generated) target/debug/crdgen --check ;;
    unit)
      # The scripted clouds hold each request against the vendor's model of its API.
      tests/models.sh google azure aws
      tests --lib --bins
      tests --doc
      ;;
    cel) tests --test cel ;;
    attestation) tests $(files attestation attestation/model attestation/tool) ;;
    operator) tests $(files operator) ;;
    clouds)
      tests/models.sh google azure aws moto
      tests --test life --test lists --test killed --test moto --test hsm --test kms --test clouds
      ;;
    processes) tests --test=api_server --test=arrows --test=control_plane --test=join_process --test=simulated_cloud --test=simulated --test=threats ;;
    crash)
      # The first two wait for most of their time, each with an API server of its own.
      local quiet failed=0
      mkdir -p target/tmp
      tests --test quiet -- --nocapture >target/tmp/quiet.log 2>&1 &
      quiet=$!
      tests --test bad_input --test takeover -- --nocapture || failed=1
      wait "$quiet" || failed=1
      cat target/tmp/quiet.log
      [ $failed -eq 0 ]
      tests --test crash -- --nocapture --test-threads=1
      ;;
    soak)
      QUIET_SECONDS=600 tests --test quiet -- --nocapture
      SCHEDULES="${SCHEDULES:-5000}" tests --test crash -- --nocapture --test-threads=1
      ;;
    image)
      image test
      image test2 --revision 2 --signing-key target/image/test/publisher.key.pem
      image cloud --flavor cloud --set aws-nitro-tpm --set gcp-sev-es
      target/debug/constellation-image tamper target/image/test/image.raw target/image/test/tampered.raw
      ;;
    vm)
      CONSTELLATION_CLOUD_IMAGE=$PWD/target/image/cloud tests --test cloud_image -- --nocapture
      CONSTELLATION_IMAGE=$PWD/target/image/test CONSTELLATION_IMAGE_2=$PWD/target/image/test2 \
        tests --test vm -- --nocapture
      ;;
    *) echo "run.sh: unknown stage '$1'" >&2; return 2 ;;
  esac
}

# Tests run the programs that lie there, so they are made from what lies here, whichever stage is wanted.
for stage in "${stages[@]}"; do
  echo "== $stage"
  start=$SECONDS
  case $stage in packages | tools | format | build) ;; *) [[ " ${stages[*]} " == *" build "* ]] || run build ;; esac
  run "$stage"
  times+=("$(printf '%-14s %5d s' "$stage" $((SECONDS - start)))")
done
