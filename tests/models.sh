#!/usr/bin/env bash
# Fetches the vendors' own descriptions of their APIs, for the tests of the clouds. Usage: tests/models.sh [google|azure|aws|moto]...
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

# Google: the discovery documents of Compute Engine and Cloud KMS.
google() (
  [ -s "$models/compute.v1.json" ] && [ -s "$models/cloudkms.v1.json" ] && exit
  wheel google-api-python-client==2.202.0
  for api in compute cloudkms; do
    mv "$work/unpacked/googleapiclient/discovery_cache/documents/$api.v1.json" "$models/$api.v1.json"
  done
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

# AWS: botocore's models of the services that we call.
aws() (
  [ -s "$models/kms.service-2.json" ] && exit
  wheel botocore==1.44.5
  for service in ec2/2016-11-15 elbv2/2015-12-01 service-quotas/2019-06-24 kms/2014-11-01; do
    python3 -c 'import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())' \
      "$work/unpacked/botocore/data/$service/service-2.json.gz" >"$work/model.json"
    mv "$work/model.json" "$models/${service%%/*}.service-2.json"
  done
)

# Another implementation of AWS' APIs, which the tests start: no more of it than they use.
moto() (
  [ -d "$models/moto" ] && exit
  rm -rf "$models/moto.new"
  pip3 install -q --disable-pip-version-check --root-user-action ignore --no-compile --target "$models/moto.new" \
    moto==5.2.5 flask==3.1.2 flask-cors==6.0.1
  mv "$models/moto.new" "$models/moto"
)

[ $# -gt 0 ] || set -- google azure aws moto
for model in "$@"; do
  "$model"
  echo "models.sh: $model is in $models" >&2
done
