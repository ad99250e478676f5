#!/usr/bin/env bash
# Fetches the vendors' own descriptions of their APIs, for the tests of the clouds. Usage: tests/models.sh [google|azure]...
# They come out of the vendors' Python packages (PyPI), one function per model; a model that is there is not fetched again.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
models="${CONSTELLATION_CACHE:-$HOME/.cache/constellation-operator}/models"
mkdir -p "$models"

# Unpacks a wheel without installing it: wheel PACKAGE==VERSION, into $work.
wheel() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  pip3 download -q --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "$1"
  python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
}

# Google: the discovery document of Compute Engine.
google() (
  [ -s "$models/compute.v1.json" ] && exit
  wheel google-api-python-client==2.202.0
  mv "$work/unpacked/googleapiclient/discovery_cache/documents/compute.v1.json" "$models/compute.v1.json"
)

# Azure: types and operations, as JSON.
azure() (
  make() { # NAME PACKAGE==VERSION FOLDER
    [ -s "$models/azure-$1.json" ] && return
    wheel "$2"
    python3 "$here/azure_model.py" "$work/unpacked/azure/mgmt/$3" >"$work/model.json"
    mv "$work/model.json" "$models/azure-$1.json"
    rm -rf "$work"
  }
  make compute azure-mgmt-compute==39.0.0 compute
  make network azure-mgmt-network==33.1.0 network
  make resource azure-mgmt-resource==26.0.0 resource/resources
)

[ $# -gt 0 ] || set -- google azure
for model in "$@"; do
  "$model"
  echo "models.sh: $model is in $models" >&2
done
