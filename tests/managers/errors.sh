#!/bin/bash
# errors.sh RESULTS: what an engine's user reads after ten common mistakes, with runc and with conex. Writes rows of a table.
set -u
cd "$(dirname "$0")"
. ./features.sh
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH DOCKER_HOST=unix:///run/dk.sock PODMAN_IGNORE_CGROUPSV1_WARNING=1
docker_root
mkdir -p /var/lib/containers /etc/containers/containers.conf.d
mount -t tmpfs tmpfs /var/lib/containers
image_root /tmp/image
"$bin/conex" setup podman --write >/dev/null
containerd_up
docker_up "\"bip\": \"172.31.0.1/24\""
tar -C /tmp/image -c . | docker import - bb >/dev/null
tar -C /tmp/image -c . | podman import - bb >/dev/null 2>&1
python3 image.py /tmp/image docker.io/local/bb:1 sh | ctr images import - >/dev/null
busybox nc -l -p 8099 &
taken=$!
last() { # the message, without its time, identifiers and the hint
	sed -E 's/^time="[^"]*" //; s/[0-9a-f]{64}/ID/g; s/[0-9a-f]{12,}/ID/g; /^Run .docker/d; /^See .docker/d; /^$/d' | tail -n 1 | cut -c1-420
}
# Beside the results: they are no features.
out=${1%/*}/managers.errors
: >"$out"
row() {
	local name flags text line="| $1 | $2"
	for name in runc conex; do
		case $2 in
		docker) flags="--runtime $name" ;;
		podman) flags="--cgroup-manager=cgroupfs --runtime $name" ;;
		ctr) if [ $name = runc ]; then flags="--runtime io.containerd.runc.v2"; else flags="--runtime io.containerd.conex.v2"; fi ;;
		esac
		text=$(timeout 40 bash -c "${3//%R/$flags}" 2>&1 </dev/null | last)
		line="$line | ${text//|/\\|}"
	done
	echo "$line |" >>"$out"
	docker rm -f x1 >/dev/null 2>&1
	podman rm -f x1 >/dev/null 2>&1
	ctr container rm x1 >/dev/null 2>&1
}
d="docker run --rm %R" p="podman %R run --rm --network none" c="ctr run --rm %R"
row "missing command" docker "$d bb serve"
row "missing command" podman "$p bb serve"
row "missing command" ctr "$c docker.io/local/bb:1 x1 serve"
row "directory as command" docker "$d bb /etc"
row "script without its interpreter" docker "printf '#!/usr/bin/python3\n' >/tmp/s; chmod +x /tmp/s; $d -v /tmp/s:/s bb /s"
row "mount source missing" docker "$d --mount type=bind,src=/nowhere,dst=/x bb true"
row "mount source missing" podman "$p -v /nowhere:/x bb true"
row "mount source missing" ctr "$c --mount type=bind,src=/nowhere,dst=/x,options=rbind docker.io/local/bb:1 x1 true"
row "file mounted on a directory" docker "$d -v /tmp/s:/etc bb true"
row "file mounted on a directory" ctr "$c --mount type=bind,src=/tmp/s,dst=/etc,options=rbind docker.io/local/bb:1 x1 true"
row "unknown user" docker "$d -u nobody-here bb true"
row "working directory is a file" docker "$d -w /etc/passwd bb true"
row "working directory is a file" podman "$p -w /etc/passwd bb true"
row "memory limit too low" docker "$d -m 6m bb sh -c 'x=\$(head -c 9000000 /dev/zero | tr \"\\0\" x)'; echo \"nothing, and exit status \$?\""
row "memory limit too low to start" ctr "$c --memory-limit 4096 docker.io/local/bb:1 x1 true"
row "memory limit too low to start" podman "$p -m 4096b bb true"
row "processor that is not there" docker "$d --cpuset-cpus 0 --cpuset-mems 7 bb true"
row "processor that is not there" podman "$p --cpuset-cpus 99 bb true"
row "sysctl of the host" podman "$p --sysctl vm.swappiness=1 bb true"
row "sysctl of the host" docker "$d --sysctl net.ipv4.no_such_thing=1 bb true"
row "device missing" docker "$d --device /dev/nothing bb true"
row "limit of open files above the hard one" docker "$d --ulimit nofile=9999999999:9999999999 bb true"
row "port in use" docker "$d -p 8099:80 bb true"
row "capability unknown" docker "$d --cap-add FLYING bb true"
row "seccomp profile: unknown action" docker "echo '{\"defaultAction\": \"SCMP_ACT_SHRUG\"}' >/tmp/p.json; $d --security-opt seccomp=/tmp/p.json bb true"
kill $taken 2>/dev/null
docker_down
kill $containerd
