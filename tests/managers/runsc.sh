#!/bin/bash
# runsc.sh RESULTS: gVisor's runsc as the runtime below a shim: runc's shim as control, and conex's. Runs in a Debian root and a
# network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { clear; }
export engine="runsc below the shim" results=$1 limit=60
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH CONTAINERD_NAMESPACE=conex-test
mkdir -p /etc/containerd /var/lib/ctd /tmp/runsc
mount -t tmpfs tmpfs /var/lib/ctd
image_root /tmp/image
cat >/etc/containerd/config.toml <<'J'
version = 2
root = '/var/lib/ctd'
disabled_plugins = ['io.containerd.grpc.v1.cri']
J
# It has no network to give, and knows no host with both versions of cgroups.
printf '#!/bin/sh\nexec /usr/bin/runsc --network=none --ignore-cgroups "$@"\n' >/tmp/runsc/runsc
chmod 755 /tmp/runsc/runsc
# ctr names another runtime to runc's shim alone: conex's has its name here.
mkdir -p /tmp/shims
cp "$bin/containerd-shim-conex-v2" /tmp/shims/containerd-shim-runc-v2
export image=docker.io/local/bb:1 flags="--runtime io.containerd.runc.v2 --runc-binary /tmp/runsc/runsc"
clear() {
	for id in $(ctr task ls -q) $(ctr container ls -q); do ctr task rm -f "$id" && ctr container rm "$id"; done >/dev/null 2>&1
	for id in $(ctr container ls -q); do ctr container rm "$id"; done >/dev/null 2>&1
}
verbs() {
	ctr run -d $flags $image vv sleep 4321
	ctr task ls | awk '$1 == "vv" {print $3}'
	echo in | ctr task exec --exec-id e1 vv sh -c 'cat; exit 3'
	echo $?
	ctr task pause vv && ctr task ls | awk '$1 == "vv" {print $3}' && ctr task resume vv && ctr task ls | awk '$1 == "vv" {print $3}'
	ctr task kill -s SIGKILL vv
	for _ in $(seq 50); do [ "$(ctr task ls | awk '$1 == "vv" {print $3}')" = STOPPED ] && break; sleep 0.1; done
	ctr task rm vv 2>&1 | grep -o 'exit code [0-9]*'
	clear
}
export -f clear verbs
for name in runc conex-shim; do
	export name
	[ $name = runc ] || PATH=/tmp/shims:$PATH
	containerd_up
	ctr images ls -q | grep -q . || python3 image.py /tmp/image $image sh | ctr images import - >/dev/null
	feature "run: output and status, gVisor's kernel" '*gVisor* 7=0' "ctr run --rm $flags $image rr sh -c 'dmesg 2>/dev/null | grep -m1 -o gVisor; exit 7'; echo \$?"
	feature "exec, pause, kill, delete" 'RUNNING in 3 PAUSED RUNNING exit code 137=0' verbs
	feature "a missing program" 'error finding executable=0' "ctr run --rm $flags $image nn nope 2>&1 | grep -o 'error finding executable'; true"
	kill $containerd
	wait $containerd
done
