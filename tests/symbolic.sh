#!/usr/bin/env bash
# The symbolic models of the join: they hold as they are, and with one check taken out the named query fails.
# Usage: tests/symbolic.sh ; installs Verifpal from the crate registry into the cache first (some minutes, once).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../attestation/model/symbolic"
VERIFPAL=1.6.7
root=${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}/verifpal-$VERIFPAL
if [ ! -x "$root/bin/verifpal" ]; then
  echo "installing Verifpal $VERIFPAL (some minutes, once)" >&2
  # It asks for a newer Rust than the pinned one and builds with the pinned one as well. A tool: none of its code is in ours.
  cargo install --quiet --locked --ignore-rust-version --root "$root" verifpal --version $VERIFPAL
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

verdicts() { # MODEL SESSIONS: prints "PASS query" or "FAIL query" for each
  local said
  said=$("$root/bin/verifpal" verify "$1" --sessions "$2" --color never 2>&1) || { echo "$said" >&2; return 1; }
  sed -nE 's/^ *(PASS|FAIL) [+x] ([a-z]+\? [^[]*[^[ ]).*/\1 \2/p' <<<"$said" | grep -v '(Analysis' | sort -u
}

holds() { # MODEL SESSIONS QUERIES: all of them pass
  local got
  got=$(verdicts "$1" "$2")
  if [ "$(grep -c '^PASS' <<<"$got")" -ne "$3" ] || grep -q '^FAIL' <<<"$got"; then
    printf 'symbolic.sh: %s does not hold:\n%s\n' "$1" "$got" >&2
    exit 1
  fi
  echo "$1: queries that hold: $3 (sessions: $2)"
}

breaks() { # MODEL SESSIONS SEED EXPRESSION QUERY: with the expression applied, the query fails
  sed -E "$4" "$1" >"$work/$3.vp"
  if cmp -s "$1" "$work/$3.vp"; then
    echo "symbolic.sh: the seed '$3' changes nothing in $1" >&2
    exit 1
  fi
  local got
  got=$(verdicts "$work/$3.vp" "$2")
  if ! grep -qF "FAIL $5" <<<"$got"; then
    printf 'symbolic.sh: %s without its %s should fail "%s", and says:\n%s\n' "$1" "$3" "$5" "$got" >&2
    exit 1
  fi
  echo "$1 without its $3: $5 fails, as it must"
}

holds join.vp 1 4
breaks join.vp 1 exporter 's/CONCAT\(HASH\(key_[nv]\), /CONCAT(nil, /' 'authentication? Node -> Verifier: frame'
breaks join.vp 1 nonce 's/CONCAT\(HASH\((key_[nv])\), nonce\)/CONCAT(HASH(\1), nil)/' 'freshness? quote'
breaks join.vp 1 sealing-key 's/, sealpub_n\)$/, nil)/' 'confidentiality? ticket'
breaks join.vp 1 endorsement '/check: endorsement/d' 'confidentiality? ticket'
breaks join.vp 1 credential '/check: credential/d' 'authentication? Node -> Verifier: quote'
holds role.vp 2 1
breaks role.vp 2 role 's/CONCAT\(label, (join|reattest)\)/CONCAT(label, nil)/' 'confidentiality? ticket'
