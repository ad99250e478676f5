#!/bin/busybox sh
# Gives containerd its preloaded images: databases and small blobs are copied to the state disk once, the unpacked
# files stay under verity and are bind-mounted, so what runs as control plane is what was measured.
set -eu
seed=/ro/usr/lib/cseed
state=/var/lib/containerd
snapshotter=$state/io.containerd.snapshotter.v1.overlayfs
content=$state/io.containerd.content.v1.content
mine=$(cat $seed/id)
if [ "$(cat $state/seed-id 2>/dev/null || true)" != "$mine" ]; then
    rm -rf $state/io.containerd.* $state/seed-id
    mkdir -p $state/io.containerd.metadata.v1.bolt $snapshotter/snapshots $content/blobs/sha256 $content/ingest
    chmod 711 $state
    chmod 700 $snapshotter $snapshotter/snapshots
    cp $seed/meta.db $state/io.containerd.metadata.v1.bolt/meta.db
    cp $seed/snap.db $snapshotter/metadata.db
    cp $seed/blobs/* $content/blobs/sha256/
    for each in $seed/snapshots/*; do
        mkdir -p "$snapshotter/snapshots/${each##*/}"
    done
    # A power cut must not leave empty files behind a name that says they are whole.
    sync
    echo "$mine" > $state/seed-id
fi
for each in $seed/snapshots/*; do
    mount -o bind "$each" "$snapshotter/snapshots/${each##*/}"
done
