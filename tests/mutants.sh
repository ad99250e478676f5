#!/usr/bin/env bash
# Changes the code that decides on joins, and what is done, place by place, and asks the tests whether they notice (cargo-mutants).
# Usage: tests/mutants.sh [FILE...]; without files the whole library, the verifier and the planners. What was missed is in
# target/mutants-ROOM/mutants.out/missed.txt. RESUME=1 leaves out what was caught by the run before.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
version=27.1.0
tools=$PWD/target/tools
if ! "$tools/bin/cargo-mutants" --version 2>/dev/null | grep -qF " $version"; then
  cargo install --quiet --locked --debug --root "$tools" "cargo-mutants@$version"
fi
# A change that a lint refuses is to be judged by a test. All rooms share what they build, and nobody debugs a mutant.
unset RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS
export CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/mutants}
# ROOM: the tests that whole evidence of its kind is in, beside the unit tests of its package.
declare -A rooms=(
  [appraise]="join_swtpm cloud_swtpm"
  [azure]=azure_vectors
  [credential]=""
  [collect]="collect_swtpm cloud_swtpm join_swtpm"
  [gcp]=gcp_vectors
  [guest]="collect_swtpm endorsers"
  [nitro]=nitro_vectors
  [snp]="snp_vectors snp_synthetic signed_mutations endorsers"
  [tdx]="tdx_vectors tdx_synthetic tdx_mutations endorsers"
  [tpm]="tpm_vectors"
  [trusted_launch]=trusted_launch
  [common]="endorsers snp_vectors tdx_vectors tdx_synthetic tpm_vectors gcp_vectors nitro_vectors"
  [verifier]="" [planners]=""
)
room() { # FILE: the room it is in
  case $1 in
    operator/*) echo planners ;;
    attestation/verifier/*) echo verifier ;;
    attestation/src/endorsement.rs) echo tpm ;;
    attestation/src/credential.rs) echo credential ;;
    attestation/src/appraise*) echo appraise ;;
    attestation/src/azure/trusted_launch.rs) echo trusted_launch ;;
    *)
      local room
      room=$(cut -d/ -f3 <<<"$1")
      [ -n "${rooms[$room]+is}" ] && echo "$room" || echo common
      ;;
  esac
}
[ $# -gt 0 ] || set -- attestation/verifier/src/{admit,record,ticket,trust,home,authority,verifier,join}.rs \
  operator/src/{cluster/plan,cluster/plan/sizes,collateral/plan,node/plan}.rs \
  $(find attestation/src -name '*.rs' ! -name tests.rs | sort)
declare -A files=()
for file in "$@"; do files[$(room "$file")]+=" $file"; done
for room in "${!files[@]}"; do
  # Where few functions are run often, compiling them well costs more than it gains.
  arguments=(${RESUME:+--iterate} --output "target/mutants-$room" --timeout 60
    --cargo-arg=--config=profile.dev.package.constellation-attestation.opt-level=0
    --cargo-arg=--config=profile.dev.package.constellation-verifier.opt-level=0)
  case $room in planners | verifier) ;; *) arguments+=(--features "channel,collect") ;; esac
  for file in ${files[$room]}; do arguments+=(--file "$file"); done
  # For the build too: what is given to the tests alone would leave all of them to be linked.
  arguments+=(--cargo-arg=--lib)
  for test in ${rooms[$room]}; do arguments+=(--cargo-arg=--test="$test"); done
  # A mutant that makes a loop endless is caught by the limit; the tests take seconds. 2: some were missed.
  "$tools/bin/cargo-mutants" mutants "${arguments[@]}" || [ $? -eq 2 ]
done
