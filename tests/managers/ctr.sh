#!/bin/bash
# ctr.sh RESULTS: containerd by its own client. Runs in a Debian root and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { clear; }
export engine=${ENGINE:-ctr, containerd 2.1} results=$1 limit=60
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH CONTAINERD_NAMESPACE=conex-test
mkdir -p /etc/containerd /var/lib/ctd /tmp/rootfs /run/netns
mount -t tmpfs tmpfs /var/lib/ctd
image_root /tmp/image
image_root /tmp/rootfs
cat >/etc/containerd/config.toml <<'J'
version = 2
root = '/var/lib/ctd'
disabled_plugins = ['io.containerd.grpc.v1.cri']
J
containerd_up
python3 image.py /tmp/image docker.io/local/bb:1 sh | ctr images import - >/dev/null
ip netns add made
ip -n made link add marked type veth peer name other
pause() { ctr run -d $flags $image pp sleep 100 && ctr task pause pp && ctr task ls | awk '$1 == "pp" {print $3}' && ctr task resume pp && ctr task ls | awk '$1 == "pp" {print $3}'; clear; }
clear() {
	for id in $(ctr task ls -q) $(ctr container ls -q); do ctr task rm -f "$id" && ctr container rm "$id"; done >/dev/null 2>&1
	for id in $(ctr container ls -q); do ctr container rm "$id"; done >/dev/null 2>&1
}
verbs() {
	ctr run -d --memory-limit 67108864 $flags $image vv sleep 4321
	echo in | ctr task exec --exec-id e1 vv sh -c 'cat; exit 3'
	echo $?
	ctr task metrics --format json vv | grep -c 67108864
	ctr task ps vv | wc -l
	ctr task kill -s SIGTERM vv
	sleep 0.2
	ctr task kill -s SIGKILL vv
	for _ in $(seq 50); do [ "$(ctr task ls | awk '$1 == "vv" {print $3}')" = STOPPED ] && break; sleep 0.1; done
	ctr task rm vv 2>&1 | grep -o 'exit code [0-9]*'
	clear
}
restart() {
	ctr run -d $flags $image rr sh -c 'while ! [ -e /go ]; do sleep 0.05; done; exit 6'
	kill -9 "$(pgrep -x containerd)"
	sleep 0.5
	containerd >>/tmp/containerd.log 2>&1 &
	for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
	ctr task ls | awk '$1 == "rr" {print $3}'
	ctr task exec --exec-id e1 rr touch /go
	for _ in $(seq 50); do [ "$(ctr task ls | awk '$1 == "rr" {print $3}')" = STOPPED ] && break; sleep 0.1; done
	ctr task rm rr 2>&1 | grep -o 'exit code [0-9]*'
	clear
}
snapshot() {
	ctr run $flags $image ss sh -c 'echo changed >/f'
	mkdir -p /tmp/mm
	ctr snapshots mounts /tmp/mm ss | sh
	cat /tmp/mm/f
	umount /tmp/mm
	clear
}
export -f pause clear verbs restart snapshot
for name in runc conex conex-shim; do
	case $name in
	runc) flags="--runtime io.containerd.runc.v2" ;;
	conex) flags="--runtime io.containerd.runc.v2 --runc-binary $bin/conex" ;;
	*) flags="--runtime io.containerd.conex.v2" ;;
	esac
	export flags image=docker.io/local/bb:1
	run="ctr run --rm $flags"
	feature "run an image, exit status" 'hello=7' "$run $image r1 sh -c 'echo hello; exit 7'"
	feature "--rootfs" 'hello=0' "$run --env PATH=/bin --rootfs /tmp/rootfs r2 sh -c 'echo hello'"
	feature "missing command told" '*executable file not found*' "$run $image r3 nope 2>&1"
	feature "--env, --cwd" 'x /tmp=0' "$run --env V=x --cwd /tmp $image r4 sh -c 'echo \$V \$PWD'"
	feature "--memory-limit, --cpus" '33554432 50000=0' "$run --memory-limit 33554432 --cpus 0.5 $image r5 sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us' || $run --memory-limit 33554432 --cpus 0.5 --mount type=bind,src=/sys/fs/cgroup,dst=/cg,options=rbind:ro $image r6 sh -c 'p=\$(grep :memory: /proc/self/cgroup | cut -d: -f3); cat /cg/memory\$p/memory.limit_in_bytes; cat /cg/cpu\$p/cpu.cfs_quota_us'"
	feature "--with-ns network" 'marked=0' "$run --with-ns network:/run/netns/made $image r7 sh -c 'ls /sys/class/net | grep marked'"
	feature "--net-host" 'same=0' "touch /etc/hosts /etc/resolv.conf; $run --net-host $image r8 sh -c 'readlink /proc/self/ns/net' | tr -d '\r' | grep -qxF \"\$(readlink /proc/self/ns/net)\" && echo same"
	feature "user namespace" '*0 100000 65536 0=0' "$run --uidmap 0:100000:65536 --gidmap 0:100000:65536 $image r9 sh -c 'cat /proc/self/uid_map; stat -c %u /bin'"
	feature "--read-only, --mount" '*Read-only*1=0' "$run --read-only --mount type=bind,src=/etc,dst=/m,options=rbind:ro $image ra sh -c 'touch /x 2>&1; ls /m/debian_version | wc -l'"
	feature "--privileged, --seccomp, --cap-drop" '0 2 0=0' "for o in --privileged --seccomp; do $run \$o $image rb sh -c 'grep Seccomp: /proc/self/status | cut -f2'; done; $run --cap-drop CAP_CHOWN $image rb sh -c 'chown 5 /tmp 2>/dev/null; stat -c %u /tmp'"
	feature "a terminal" '*/dev/pts/0*=0' "script -qec '$run -t $image rc tty' /dev/null"
	feature "exec with input, metrics, ps, kill, delete" 'in 3 2 2 exit code 137=0' verbs
	feature "pause, resume" 'PAUSED RUNNING=0' pause
	feature "snapshot of what was written" 'changed=0' snapshot
	feature "--log-uri file" 'line=0' "ctr run -d --log-uri file:///tmp/lg.$name $flags $image re sh -c 'echo line; sleep 100' && until_says line cat /tmp/lg.$name; clear"
	feature "containerd killed -9 and started again" 'RUNNING exit code 6=0' restart
	feature "20 containers at once" '20=0' "for i in \$(seq 20); do $run $image m\$i echo ok & done | grep -c ok"
	feature "nothing left" '0 0=0' "sleep 0.3; ctr task ls -q | wc -l; ps -eo args | grep -c '[c]ontainerd-shim.*-namespace conex-test'; true"
done
pkill -x containerd
