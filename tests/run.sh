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

# Stages of one argument run beside each other: in many of them programs wait for most of their time.
stages=(packages tools+format+build generated+unit+cel+attestation+operator clouds+processes+quiet+accidents+image crash vm)
[ $# -gt 0 ] && stages=("$@")
mkdir -p target/tmp
times=$(mktemp)
free() { df --output=avail -BG . | tail -1 | tr -d ' '; }
echo "disk: $(free) free; what is built and what VMs write is about 25 GiB when all of it is new"
report() {
  local status=$? job
  for job in $(jobs -p); do [ ! -d "/proc/$job" ] || kill -- "-$job"; done
  echo
  echo "disk: $(free) free"
  echo "where the time went:"
  cat "$times"
  rm -f "$times"
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
    tools) tests/kubernetes/build.sh all helm >/dev/null ;;
    format) cargo fmt --all --check ;;
    build)
      tests/compiled.sh lay "${features[@]}"
      cargo build --all-targets "${features[@]}"
      tests/compiled.sh keep "${features[@]}"
      ;;
    generated) target/debug/crdgen --check ;;
    unit)
      # The scripted clouds hold each request against the vendor's model of its API.
      tests/models.sh google azure aws
      tests --lib
      tests --doc
      ;;
    cel) tests --test cel ;;
    attestation) tests $(files attestation attestation/model attestation/tool) ;;
    operator) tests $(files operator) ;;
    clouds)
      tests/models.sh google azure aws moto
      tests --test life --test lists --test killed --test moto --test hsm --test kms --test clouds
      ;;
    processes) tests --test=api_server --test=arrows --test=charts --test=control_plane --test=fuzz_programs --test=join_process --test=renewal --test=simulated_cloud --test=simulated --test=threats ;;
    quiet) tests --test quiet -- --nocapture ;;
    accidents)
      tests --test bad_input --test sweep --test takeover -- --nocapture
      tests --test conversations -- --nocapture
      ;;
    crash) tests --test crash -- --nocapture --test-threads=1 ;;
    soak)
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

timed() { # STAGE: with the seconds that it took
  local start=$SECONDS
  echo "== $1"
  run "$1"
  printf '  %-14s %5d s\n' "$1" $((SECONDS - start)) >>"$times"
}
beside() { # STAGE...: each line is told with the name of its stage; what failed is told once more at the end
  local each failed=()
  local -A job
  # Each in a process group of its own, so that all of it can be ended.
  set -m
  for each; do
    (set +m; timed "$each" 2>&1 | tee "target/tmp/$each.log" | sed -u "s/^/$each: /") &
    job[$each]=$!
  done
  set +m
  for each; do wait "${job[$each]}" || failed+=("$each"); done
  for each in "${failed[@]}"; do
    echo "== $each failed; the end of target/tmp/$each.log:"
    tail -n 80 "target/tmp/$each.log"
  done >&2
  [ ${#failed[@]} -eq 0 ]
}

main() { # read whole before anything runs: bash reads on from a script that somebody changes meanwhile
  # Tests run the programs that lie there, so they are made from what lies here, whichever stage is wanted.
  for stage in "${stages[@]}"; do
    case $stage in packages | tools | format | *build*) ;; *) [[ " ${stages[*]} " == *build* ]] || run build ;; esac
    IFS=+ read -ra together <<<"$stage"
    if [ ${#together[@]} -eq 1 ]; then timed "$stage"; else beside "${together[@]}"; fi
  done
  exit 0
}
main
