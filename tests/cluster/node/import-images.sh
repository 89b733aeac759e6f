#!/bin/bash
# import-images.sh SOCKET DONE: gives containerd at SOCKET every image of the cluster that it does not have yet.
# DONE holds the digest of each image file that was imported before. Environment: STATE, BIN.
set -eu
socket=$1 done=$2
mkdir -p "$done"
# A node that boots and an image that is loaded meanwhile take turns.
exec 9> "$done/.lock"
flock 9
for _ in $(seq 600); do [ -S "$socket" ] && break; sleep 0.05; done
status=0
for tar in "$STATE"/images/*.tar; do
  [ -e "$tar" ] || continue
  digest=${tar%.tar}.digest
  mark=$done/$(basename "$digest")
  cmp -s "$digest" "$mark" && continue
  if "$BIN/ctr" --address "$socket" -n k8s.io images import --local=true "$tar"; then
    cp "$digest" "$mark"
  else
    echo "import of $tar failed" >&2
    status=1
  fi
done
exit $status
