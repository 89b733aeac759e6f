#!/bin/bash
# Starts the kubelet of the node in whose namespaces it runs; also after a test killed it. Same environment as node-init.sh.
set -eu
kubelet --config="$STATE/conf/$NODE-kubelet.yaml" --kubeconfig="$STATE/kubeconfig/$NODE.conf" --hostname-override="$NODE" \
  --node-ip="10.77.0.1$NUMBER" -v=2 >> "$STATE/log/$NODE-kubelet.log" 2>&1 < /dev/null &
echo $! > /run/kubelet.pid
