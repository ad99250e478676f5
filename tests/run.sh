#!/usr/bin/env bash
# Runs every test, prints progress and, at the end, where the time went. Usage: tests/run.sh [STAGE...]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1

stages=(packages control-plane build lint generated unit attestation operator api-server)
[ $# -gt 0 ] && stages=("$@")
times=()
report() {
  local status=$?
  echo
  echo "where the time went:"
  printf '  %s\n' "${times[@]:-}"
  [ $status -eq 0 ] || echo "FAILED in stage '$stage'" >&2
  exit $status
}
trap report EXIT

run() {
  case $1 in
    packages) tests/packages.sh ;;
    control-plane) tests/kubernetes/build.sh control-plane >/dev/null ;;
    build) cargo build --workspace --bins ;;
    lint)
      cargo fmt --all --check
      cargo clippy --workspace --all-targets -- -D warnings
      ;;
    generated) cargo run -q -p constellation-crds --bin crdgen -- --check ;;
    unit) cargo test --workspace --exclude constellation-tests --exclude constellation-attestation --exclude constellation-operator ;;
    attestation) cargo test -p constellation-attestation --features channel,collect ;;
    operator) cargo test -p constellation-operator ;;
    api-server) cargo test -p constellation-tests ;;
    *) echo "run.sh: unknown stage '$1'" >&2; return 2 ;;
  esac
}

for stage in "${stages[@]}"; do
  echo "== $stage"
  start=$SECONDS
  run "$stage"
  times+=("$(printf '%-14s %5d s' "$stage" $((SECONDS - start)))")
done
