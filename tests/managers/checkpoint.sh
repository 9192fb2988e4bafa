#!/bin/bash
# checkpoint.sh RESULTS: a container goes on from its checkpoint, by each engine, with CRIU behind the runtime. Runs in a Debian root
# and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
export results=$1 limit=60 PODMAN_IGNORE_CGROUPSV1_WARNING=1
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH CONTAINERD_NAMESPACE=conex-test DOCKER_HOST=unix:///run/docker.sock
docker_root
mkdir -p /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
image_root /tmp/image
mkdir -p /etc/containers/containers.conf.d
"$bin/conex" setup podman --write >/dev/null
export counts='i=0; while :; do i=$((i+1)); echo $i >/n; sleep 0.05; done'
# Prints "on" when what the command prints grows beyond a number.
beyond() { # NUMBER COMMAND…
	local n=$1
	shift
	for _ in $(seq 100); do
		[ "$("$@" 2>/dev/null || echo 0)" -gt "$n" ] 2>/dev/null && echo on && return
		sleep 0.1
	done
	echo "not beyond $n"
}
of_ctr() {
	ctr run -d $flags $image cc sh -c "$counts" && beyond 5 ctr task exec --exec-id "e$RANDOM" cc cat /n
	ctr task checkpoint --image-path /tmp/cc-image cc >/dev/null && beyond 10 ctr task exec --exec-id "e$RANDOM" cc cat /n
	n=$(ctr task exec --exec-id last cc cat /n)
	rm -rf /tmp/cc-image
	ctr container checkpoint --rw --task cc localhost/cp:1 >/dev/null
	ctr task rm -f cc >/dev/null 2>&1
	ctr container rm cc
	ctr container restore --rw --live cr localhost/cp:1 >/dev/null && beyond "$n" ctr task exec --exec-id "e$RANDOM" cr cat /n
	ctr task kill -s SIGKILL cr
	sleep 0.3
	ctr task rm -f cr >/dev/null 2>&1
	ctr container rm cr
	ctr images rm localhost/cp:1 >/dev/null
}
of_podman() {
	$podman run -d --name cc --network none bb sh -c "$counts" >/dev/null && beyond 5 $podman exec cc cat /n
	$podman container checkpoint cc >/dev/null && $podman inspect -f '{{.State.Status}} {{.State.Checkpointed}}' cc
	$podman container restore cc >/dev/null && beyond 10 $podman exec cc cat /n
	$podman container checkpoint -e /tmp/cc.tar.gz cc >/dev/null && $podman rm -f -t 0 cc >/dev/null
	$podman container restore -i /tmp/cc.tar.gz -n other >/dev/null && beyond 15 $podman exec other cat /n
	$podman rm -f -t 0 other >/dev/null
	rm -f /tmp/cc.tar.gz
}
of_docker() {
	docker run -d --name cc --runtime "$runtime" --network none --security-opt seccomp=unconfined bb sh -c "$counts" >/dev/null && beyond 5 docker exec cc cat /n
	docker checkpoint create --leave-running cc zero >/dev/null && beyond 10 docker exec cc cat /n
	docker checkpoint create cc one >/dev/null && until_says exited docker inspect -f '{{.State.Status}}' cc
	docker checkpoint ls cc | grep -c one
	# `docker start --checkpoint` is broken in Docker itself: it asks for the network of process 0 before there is one.
	docker rm -f cc >/dev/null
}
export -f beyond of_ctr of_podman of_docker
containerd_up
python3 image.py /tmp/image docker.io/local/bb:1 sh | ctr images import - >/dev/null
docker_up '"experimental": true, "bridge": "none", "iptables": false'
docker image inspect bb >/dev/null 2>&1 || tar -C /tmp/image -c . | docker import - bb >/dev/null
for runtime in runc conex conex-shim; do
	export runtime name=$runtime
	case $runtime in
	runc) flags="--runtime io.containerd.runc.v2" ;;
	conex) flags="--runtime io.containerd.runc.v2 --runc-binary $bin/conex" ;;
	*) flags="--runtime io.containerd.conex.v2" ;;
	esac
	export flags image=docker.io/local/bb:1
	again() { for c in $(ctr task ls -q); do ctr task rm -f "$c"; done >/dev/null 2>&1; for c in $(ctr container ls -q); do ctr container rm "$c"; done >/dev/null 2>&1; }
	engine="ctr, containerd 2.1" feature "checkpoint, and a container restored from an image of one" 'on on on=0' of_ctr
	again() { docker rm -f cc >/dev/null 2>&1; }
	# Docker says whether the container is to end to runtimes of the type runc.v2 alone (libcontainerd, CreateCheckpoint).
	[ $runtime = conex-shim ] || engine="docker 28.5" feature "checkpoint create, --leave-running, ls" 'on on exited 1=0' of_docker
	[ $runtime != conex-shim ] || continue
	again() { $podman rm -fa -t 0 >/dev/null 2>&1; }
	export podman="podman --cgroup-manager=cgroupfs --runtime $runtime"
	$podman image exists bb || tar -C /tmp/image -c . | $podman import - bb >/dev/null 2>&1
	engine="podman 5.8" feature "checkpoint, restore, export and import" 'on exited true on on=0' of_podman
done
docker_down
pkill -x containerd
