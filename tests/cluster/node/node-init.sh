#!/bin/bash
# PID 1 of one node of the test cluster, inside network, mount, uts, ipc and process namespaces of its own.
# Environment: NODE (node-1 …), NUMBER (1-9), STATE (the cluster's state directory), BIN (its binaries).
set -eu
disk=$STATE/nodes/$NODE
log=$STATE/log
export PATH=$BIN:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=$disk/home

mount -t proc proc /proc
# A sysfs that shows this network namespace, with the machine's cgroup mounts put back under it.
mkdir -p "$disk"/{cgroup,varlib,varlog,srv,mnt,home,etc-upper,etc-work,opt-upper,opt-work}
mount --rbind /sys/fs/cgroup "$disk/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$disk/cgroup" /sys/fs/cgroup
hostname "$NODE"
mount --bind "$disk/varlib" /var/lib
mount --bind "$disk/varlog" /var/log
mount --bind "$disk/srv" /srv
mount --bind "$disk/mnt" /mnt
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$disk/etc-upper,workdir=$disk/etc-work" /etc
mount -t overlay overlay -o "lowerdir=/opt,upperdir=$disk/opt-upper,workdir=$disk/opt-work" /opt
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --make-rshared /

mkdir -p /run/lock /etc/cni/net.d /var/lib/kubelet /var/log/pods
echo "$NODE" > /etc/hostname
cat > /etc/cni/net.d/10-modelcache.conflist <<CNI
{"cniVersion": "1.0.0", "name": "modelcache", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.$NUMBER.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI

containerd -c "$STATE/conf/containerd.toml" > "$log/$NODE-containerd.log" 2>&1 < /dev/null &
"$STATE/conf/import-images.sh" /run/containerd/containerd.sock "$disk/images" >> "$log/$NODE-images.log" 2>&1 || echo "images: see $log/$NODE-images.log"

# On the first boot the control plane starts at the same time; a kubelet that finds no API server backs off for seconds.
until [ -e "$STATE/run/api-ready" ]; do sleep 0.05; done
kube-proxy --config="$STATE/conf/$NODE-kube-proxy.yaml" > "$log/$NODE-kube-proxy.log" 2>&1 < /dev/null &
"$STATE/conf/kubelet.sh"

# Reaps orphans; the whole node ends with it.
exec pause
