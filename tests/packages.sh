#!/usr/bin/env bash
# Installs what the demo and the tests need beyond the base system, if it is missing. Debian 12, root.
set -euo pipefail
packages=(qemu-system-x86 ovmf swtpm swtpm-tools tpm2-tools libtss2-dev pkg-config mmdebstrap erofs-utils mtools
  dosfstools gdisk cryptsetup-bin systemd-boot-efi iproute2 util-linux procps jq faketime python3 python3-pip)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
[ "$(id -u)" = 0 ] || { echo "packages.sh: not root; install these packages yourself: ${missing[*]}" >&2; exit 1; }
echo "installing packages: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
