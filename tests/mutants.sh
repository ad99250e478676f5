#!/usr/bin/env bash
# Changes the code that decides on joins, and what is done, place by place, and asks the tests whether they notice (cargo-mutants).
# Usage: tests/mutants.sh [FILE...]; without files all of FILES below. What was missed is in
# target/mutants-*/mutants.out/missed.txt.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
version=27.1.0
files=(attestation/verifier/src/{admit,record,ticket,trust,home,authority,verifier,join}.rs
  attestation/src/{session,appraise,credential,endorsement,policy,binding}.rs
  operator/src/{cluster/plan,cluster/plan/sizes,collateral/plan,node/plan}.rs)
[ $# -gt 0 ] && files=("$@")
tools=$PWD/target/tools
if ! "$tools/bin/cargo-mutants" --version 2>/dev/null | grep -qF " $version"; then
  cargo install --quiet --locked --debug --root "$tools" "cargo-mutants@$version"
fi
# A change that a lint refuses is to be judged by a test.
unset RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS
run() { # NAME FEATURES TESTS FILE...: these tests of one package
  local name=$1 features=$2 tests=() only=() file
  read -ra tests <<<"$3"
  shift 3
  for file in "$@"; do only+=(--file "$file"); done
  # A mutant that makes a loop endless is caught by the limit; the unit tests take seconds. 2: some were missed.
  CARGO_INCREMENTAL=1 "$tools/bin/cargo-mutants" mutants --output "target/mutants-$name" --timeout 60 \
    ${features:+--features "$features"} "${only[@]}" -- "${tests[@]}" || [ $? -eq 2 ]
}
verifier=() library=() vectors=() joins=() planners=()
for file in "${files[@]}"; do
  case $file in
    attestation/verifier/*) verifier+=("$file") ;;
    operator/*) planners+=("$file") ;;
    # What these are tested with is whole evidence.
    attestation/src/endorsement.rs) vectors+=("$file") ;;
    attestation/src/appraise.rs) joins+=("$file") ;;
    *) library+=("$file") ;;
  esac
done
[ ${#verifier[@]} -eq 0 ] || run verifier "" --lib "${verifier[@]}"
[ ${#library[@]} -eq 0 ] || run attestation channel,collect --lib "${library[@]}"
[ ${#vectors[@]} -eq 0 ] || run vectors channel,collect "--test tpm_vectors" "${vectors[@]}"
[ ${#joins[@]} -eq 0 ] || run joins channel,collect "--test join_swtpm --test cloud_swtpm" "${joins[@]}"
[ ${#planners[@]} -eq 0 ] || run planners "" --lib "${planners[@]}"
