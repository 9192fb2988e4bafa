#!/bin/bash
# v2.sh RESULTS: Docker and Podman with the systemd cgroup driver, rootless Podman under the user's own systemd, and systemd
# as a container's init. Runs on a host of our own: cgroup v2, systemd as PID 1.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_docker; }
export results=$1 DOCKER_HOST=unix:///run/dk.sock limit=150
bin=$2
export PATH=$bin:$PATH
mkdir -p /var/lib/dk /etc/docker
mount -t tmpfs tmpfs /var/lib/dk
mount -t tmpfs tmpfs /var/lib/containers
chmod 1777 /tmp
image_root /tmp/image /usr/bin/socat
cgroup_of() { cut -d: -f3 "/proc/$1/cgroup"; }
export -f cgroup_of
containerd_up
docker_up '"iptables": false, "ip6tables": false, "bridge": "none", "exec-opts": ["native.cgroupdriver=systemd"]'
tar -C /tmp/image -c . | docker import - bb >/dev/null
export engine="docker 28.5, v2, systemd driver"
for name in $(names); do
	run="docker run --rm --network none --runtime $name"
	feature "run, exit status" 'hello=7' "$run bb sh -c 'echo hello; exit 7'"
	feature "the container is a scope of system.slice" '/system.slice/docker-*.scope active 137=0' "docker run -d --name uu --network none --runtime $name bb sleep 1000 >/dev/null; c=\$(cgroup_of \$(docker inspect -f '{{.State.Pid}}' uu)); echo \$c; systemctl is-active \${c##*/}; docker kill uu >/dev/null; docker wait uu; docker rm uu >/dev/null"
	feature "limits, update, stats" '33554432 50000 100000 20 50331648 *48MiB*=0' "docker run -d --name ll --network none --runtime $name -m 32m --memory-swap 32m --cpus 0.5 --pids-limit 20 bb sleep 1000 >/dev/null; docker exec ll cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max; docker update -m 48m --memory-swap 48m ll >/dev/null; docker exec ll cat /sys/fs/cgroup/memory.max; docker stats --no-stream --format '{{.MemUsage}}' ll; docker rm -f ll >/dev/null"
	feature "limits survive daemon-reload" '33554432=0' "docker run -d --name dr --network none --runtime $name -m 32m bb sleep 1000 >/dev/null; systemctl daemon-reload; docker exec dr cat /sys/fs/cgroup/memory.max; docker rm -f dr >/dev/null"
	# No row for an OOM kill: systemd removes the scope before anybody can read what the kernel has counted in it, or after.
	# Of six with runc two were told, of six with conex five, of six with conex's shim three.
	feature "device rules" '*not permitted*=1' "$run --cap-add MKNOD bb sh -c 'mknod /x b 7 0; head -c1 /x' 2>&1"
	feature "AppArmor: Docker's profile, none, and one that is not there" 'docker-default (enforce) unconfined 1=0' "$run bb cat /proc/self/attr/current; $run --security-opt apparmor=unconfined bb cat /proc/self/attr/current; $run --security-opt apparmor=no-such-profile bb true 2>&1 | grep -ci -m1 apparmor"
	feature "AppArmor: exec is confined as well" 'docker-default (enforce)=0' "docker run -d --name aa --network none --runtime $name bb sleep 1000 >/dev/null; docker exec aa cat /proc/self/attr/current; docker rm -f aa >/dev/null"
	feature "pause, exec, top, stop" 'paused in 3 137=0' "docker run -d --name pp --network none --runtime $name bb sleep 1000 >/dev/null; docker pause pp >/dev/null; docker inspect -f '{{.State.Status}}' pp; docker unpause pp >/dev/null; docker exec pp sh -c 'echo in; exit 3'; echo \$?; docker stop -t 1 pp >/dev/null; docker inspect -f '{{.State.ExitCode}}' pp; docker rm pp >/dev/null"
	feature "nothing left: no unit" '0=0' "sleep 1; systemctl list-units --no-legend 'docker-*.scope' | wc -l"
done
docker_down
kill $containerd

export engine="podman 5.8, v2, systemd manager"
again() { again_podman; }
mkdir -p /etc/containers/containers.conf.d
"$bin/conex" setup podman --write >/dev/null
podmans() { # PREFIX FLAGS-OF-SYSTEMD-RUN: the features of Podman; $podman is $as $call, how to call it
	run="$podman run --rm --network none"
	feature "$1run, exec, stop" 'hello=7' "$run bb sh -c 'echo hello; exit 7'"
	feature "$1the container is a scope" '*/libpod-*.scope*=0' "$podman run -d --name uu --network none bb sleep 1000 >/dev/null; cgroup_of \$($podman inspect -f '{{.State.Pid}}' uu); $podman rm -f -t 0 uu >/dev/null"
	feature "$1limits, update, stats" '33554432 20 50331648*=0' "$podman run -d --name ll --network none -m 32m --pids-limit 20 bb sleep 1000 >/dev/null; $podman exec ll cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; $podman update -m 48m ll >/dev/null; $podman exec ll cat /sys/fs/cgroup/memory.max; $podman stats --no-stream --format '{{.MemUsage}}' ll; $podman rm -f -t 0 ll >/dev/null"
	feature "$1pod: limits and namespaces shared" 'inpod 1=0' "$podman pod create --name pp --hostname inpod --network none --share net,ipc,uts,pid >/dev/null; $podman run -d --pod pp --name p1 bb sleep 4321 >/dev/null; $podman run --rm --pod pp bb sh -c 'hostname; ps | grep -c \"[s]leep 4321\"'; $podman pod rm -f -t 0 pp >/dev/null"
	feature "$1pause, kill" 'paused 137=0' "$podman run -d --name kk --network none bb sleep 1000 >/dev/null; $podman pause kk >/dev/null; $podman inspect -f '{{.State.Status}}' kk; $podman unpause kk >/dev/null; $podman kill kk >/dev/null; $podman wait kk; $podman rm kk >/dev/null"
	feature "$1--cgroups=split" '*/service*yes=0' "$as systemd-run $2 --wait --pipe -q -p Delegate=yes -E PATH=\$PATH -- $call run --rm --network none --cgroups=split --cgroupns host bb sh -c 'cat /proc/self/cgroup; echo yes' | sed 's/libpod-payload/service/'"
	feature "$1nothing left" '0=0' "$podman ps -aq | wc -l"
}
for name in runc conex; do
	as= call="podman --cgroup-manager=systemd --runtime $name"
	podman=$call
	$podman image exists bb || tar -C /tmp/image -c . | $podman import - bb >/dev/null 2>&1
	podmans "" ""
	# The host's own root file system, read through an overlay, with its systemd.
	feature "AppArmor: Podman's profile" 'containers-default-* (enforce)=0' "$podman run --rm --network none bb cat /proc/self/attr/current"
	feature "systemd as init" 'running 0=0' "$podman run -d --name sd --network none --systemd always --rootfs /:O /usr/lib/systemd/systemd --unit=basic.target >/dev/null; r() { $podman exec sd systemctl is-active basic.target; }; export -f r; until_says active r >/dev/null; [ \"\$(r)\" = active ] && echo running; $podman stop -t 30 sd >/dev/null 2>&1; $podman ps -q | wc -l; $podman rm -f -t 0 sd >/dev/null"
	# As kind makes its nodes.
	case $name in runc) inner=/usr/sbin/runc ;; *) inner=/cx/conex ;; esac
	feature "a node in a container: systemd, containerd, a container in there" 'running inner 7 0=0' "$podman run -d --name kk --privileged --network none --systemd always --tmpfs /var/lib/containerd -v /tmp/image:/image -v $bin:/cx:ro --rootfs /:O /usr/lib/systemd/systemd --unit=basic.target >/dev/null; r() { $podman exec kk systemctl is-active basic.target; }; export -f r; until_says active r >/dev/null; [ \"\$(r)\" = active ] && echo running; $podman exec -d kk containerd >/dev/null; v() { $podman exec kk ctr version | grep -c Server; }; export -f v; until_says 1 v >/dev/null; $podman exec kk ctr run --rm --runc-binary $inner --env PATH=/bin --rootfs /image in sh -c 'echo inner; exit 7'; echo \$?; $podman stop -t 30 kk >/dev/null 2>&1; $podman ps -q | wc -l; $podman rm -f -t 0 kk >/dev/null"
done

# A rival reads the same bundle.
export engine="systemd-nspawn --oci-bundle beside"
bundle=/tmp/bundle
mkdir -p $bundle
image_root $bundle/rootfs
mkdir -p $bundle/rootfs/{usr,m}
say='id -u; id -g; hostname; pwd; echo $V; ulimit -n; cat /m/word; grep -e CapEff -e NoNewPrivs /proc/self/status; touch /x 2>\&1; exit 7'
# nspawn knows no later version of the document.
(cd $bundle && runc spec && sed -i "s/\"ociVersion\": .*/\"ociVersion\": \"1.0.0\",/; s/\"terminal\": true/\"terminal\": false/
	s|^\(\t*\)\"sh\"|\1\"sh\", \"-c\", \"$say\"|; s|\"cwd\": .*|\"cwd\": \"/tmp\",|; s/\"\([ug]id\)\": 0/\"\1\": 1000/; s/\"hostname\": .*/\"hostname\": \"told\",/
	s|\"TERM=xterm\"|\"V=word\"|; s|\"PATH=[^\"]*\"|\"PATH=/bin\"|
	s|\"mounts\": \[|&{\"destination\": \"/m\", \"type\": \"bind\", \"source\": \"/tmp/m\", \"options\": [\"rbind\"]},|" config.json)
mkdir -p /tmp/m
echo mounted >/tmp/m/word
for name in runc conex; do
	export name
	feature "the same bundle, the same container" '*told /tmp word *mounted*7 same=0' "systemd-nspawn -q --oci-bundle=$bundle --pipe </dev/null >/tmp/nspawn.out 2>/tmp/nspawn.err; echo \$? >>/tmp/nspawn.out; (cd $bundle && $name run bb </dev/null; echo \$?) >/tmp/$name.out; cat /tmp/$name.out; diff /tmp/nspawn.out /tmp/$name.out >/dev/null && echo same || tail -n 1 /tmp/nspawn.err >&2"
done

V2=1 BIN=$bin ENGINE="CRI, containerd 2.1, v2, systemd driver" ./cri.sh "$results"

export engine="podman 5.8 rootless, v2, systemd manager"
install -m 755 "$bin/conex" /usr/local/bin/conex
sed -i "s,$bin/conex,/usr/local/bin/conex," /etc/containers/containers.conf.d/50-conex.conf
for _ in $(seq 100); do [ -S /run/user/1000/bus ] && break; sleep 0.2; done
for name in runc conex; do
	call="podman --cgroup-manager=systemd --runtime $name"
	as="runuser -u user -- env -C /tmp HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin"
	podman="$as $call"
	$podman image exists bb || tar -C /tmp/image -c . | $podman import - bb >/dev/null
	podmans "" --user
done
