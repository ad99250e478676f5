#!/usr/bin/env bash
# Keeps what was compiled of other people's crates below ~/.cache, and lays it into a clone where nothing is compiled yet.
# Usage: compiled.sh lay|keep WORD... ; the words are whatever else the compiled form depends on, such as features.
#
# Cargo decides what of it is fresh, and compiles the rest: without this folder all takes longer and ends the same.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

cache=${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}/compiled
key=$({ rustc -vV; cat Cargo.lock Cargo.toml .cargo/config.toml; echo "${@:2}"; } | sha256sum | cut -c1-16)

# Clones side by side: none takes away what another one lays in or is about to keep.
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9

case ${1:-} in
  lay)
    if [ ! -d target/debug ] && [ -d "$cache/$key" ]; then
      echo "compiled.sh: other people's crates are laid in from $cache/$key" >&2
      mkdir -p target
      rm -rf target/.debug
      cp -a --reflink=auto "$cache/$key" target/.debug
      mv target/.debug target/debug
    fi
    ;;
  keep)
    [ ! -d "$cache/$key" ] || exit 0
    work=$(mktemp -d "$cache/.new-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    # Tests and programs are executable files and ours; of others' only what the compiler loads is.
    (cd target/debug &&
      find .fingerprint build deps -path '*constellation*' -prune -o -type f \( -path 'deps/*' -perm -100 ! -name '*.so' -o -print0 \) |
      xargs -0 cp -a --reflink=auto --parents -t "$work")
    # What is kept was made with another lock file, compiler or set of features: nobody will ask for it again.
    find "$cache" -mindepth 1 -maxdepth 1 ! -path "$work" ! -name .lock -exec rm -rf {} +
    mv -T "$work" "$cache/$key"
    trap - EXIT
    ;;
  *) echo "compiled.sh: lay or keep?" >&2; exit 2 ;;
esac
