#!/bin/bash
# podman-more.sh RESULTS: Podman with images: limits, users, networks, pods, Kubernetes' YAML, sd-notify, health checks, and
# all of it that a plain user can have. Runs in a Debian root and a network namespace of its own. MANAGER: cgroupfs or systemd.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_podman; }
export engine=${ENGINE:-podman 5.8} results=$1 PODMAN_IGNORE_CGROUPSV1_WARNING=1 limit=90 MANAGER=${MANAGER:-cgroupfs}
bin=$(realpath ../../.cache/bin)
# conmon 2.1.6 leaves its file "oom" where Podman was called.
cd /tmp
mkdir -p /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
image_root /tmp/image /usr/bin/socat
mkdir -p /etc/containers/containers.conf.d
"$bin/conex" setup podman --write >/dev/null
mkdir -p /tmp/www && echo page >/tmp/www/index.html
export podman=
stop_all() { $podman pod rm -fa -t 0 >/dev/null 2>&1; $podman rm -fa -t 0 >/dev/null 2>&1; }
pod() { # two containers see each other's processes, host name and network
	$podman pod create --name pp --hostname inpod --network none --share net,ipc,uts,pid >/dev/null || return
	$podman run -d --pod pp --name p1 bb sleep 4321 >/dev/null
	$podman run --rm --pod pp bb sh -c 'hostname; ps | grep -c "[s]leep 4321"'
	$podman pod stats --no-stream pp >/dev/null && echo stats
	$podman pod pause pp >/dev/null && $podman inspect -f '{{.State.Status}}' p1 && $podman pod unpause pp >/dev/null
	$podman pod kill pp >/dev/null
	$podman wait p1
	stop_all
}
kube() {
	$podman pod create --name kp --network none >/dev/null
	$podman run -d --pod kp --name k1 -m 64m bb sleep 4321 >/dev/null
	$podman kube generate kp >/tmp/kube.yaml || $podman generate kube kp >/tmp/kube.yaml
	stop_all
	$podman kube play --network none /tmp/kube.yaml >/dev/null 2>/tmp/kube.err || $podman play kube --network none /tmp/kube.yaml >/dev/null 2>&1
	$podman exec kp-k1 sh -c 'ps | grep -c "[s]leep 4321"'
	$podman kube down /tmp/kube.yaml >/dev/null 2>&1 || $podman play kube --down /tmp/kube.yaml >/dev/null 2>&1
	$podman ps -aq | wc -l
	stop_all
}
notify() { # the container's own READY reaches the manager's socket
	rm -f /tmp/notify
	socat -u UNIX-RECV:/tmp/notify,mode=777 OPEN:/tmp/notified,creat,trunc &
	until [ -S /tmp/notify ]; do sleep 0.05; done
	NOTIFY_SOCKET=/tmp/notify $podman run -d --name nn --network none --sdnotify container bb sh -c 'printf READY=1 | socat - UNIX-SENDTO:$NOTIFY_SOCKET; sleep 100' >/dev/null
	sleep 0.5
	grep -ao READY=1 /tmp/notified
	grep -ao MAINPID= /tmp/notified | head -n 1
	kill %1
	stop_all
}
health() {
	$podman run -d --name hh --network none --health-cmd '[ -e /ok ]' --health-interval disable bb sleep 100 >/dev/null
	$podman healthcheck run hh >/dev/null 2>&1
	echo $?
	$podman exec hh touch /ok
	$podman healthcheck run hh >/dev/null 2>&1
	echo $?
	stop_all
}
update() {
	$podman run -d --name uu --network none -m 32m bb sleep 100 >/dev/null
	$podman update -m 48m uu >/dev/null
	$podman exec uu sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'
	$podman stats --no-stream --format '{{.MemLimit}}' uu 2>/dev/null || $podman stats --no-stream --format '{{.MemUsage}}' uu
	stop_all
}
bridge() {
	$podman network create nb >/dev/null
	$podman run -d --name web --network nb -p 8096:80 -v /tmp/www:/www bb httpd -f -p 80 -h /www >/dev/null
	until_says page busybox wget -qO- http://127.0.0.1:8096/
	stop_all
	$podman network rm -f nb >/dev/null
}
# Joined by path, a user and a PID namespace: the second one's processes are its own, and the first one's stay.
joined() { # FIRST-ID [FLAG…]
	$podman run -d --name ja --network none "${@:2}" --uidmap "0:$1:5000" --gidmap "0:$1:5000" bb sleep 1000 >/dev/null
	$podman run -d --name jb --network none "${@:2}" --userns container:ja --pid container:ja bb sleep 999 >/dev/null
	$podman exec jb sh -c 'cut -d" " -f2,3 /proc/self/uid_map | tr -s " " | wc -l; ps | grep -c "[s]leep"'
	$podman kill jb >/dev/null
	$podman wait jb
	$podman inspect -f '{{.State.Status}}' ja
	stop_all
}
export -f stop_all pod kube notify health update bridge joined

# Features that do not need root. $podman is how to call it.
plain() {
	local run="$podman run --rm --network none $1"
	feature "$2run, user, groups" 'uid=1000(user) gid=1000(user) groups=*5*=0' "$run -u user --group-add 5 bb id"
	feature "$2--init, -e, -w, --hostname" '*podman-init*x /tmp box=0' "$run --init -e V=x -w /tmp -h box bb sh -c 'tr \"\\0\" \" \" </proc/1/cmdline; echo \$V \$PWD; hostname'"
	feature "$2--read-only, --tmpfs" '*Read-only file system*tmpfs=0' "$run --read-only --tmpfs /t:size=1m bb sh -c 'touch /x 2>&1; grep \" /t \" /proc/mounts | cut -d\" \" -f1'"
	feature "$2volume, :ro, :U" '*Read-only*1000=0' "mkdir -p /tmp/vv; $run -v /tmp/vv:/v:ro bb touch /v/x 2>&1; $run -v named:/n:U -u user bb stat -c %u /n; $podman volume rm named >/dev/null"
	feature "$2capabilities, no-new-privileges" '0000000000000400 1=0' "$run --cap-drop all --cap-add NET_BIND_SERVICE --security-opt no-new-privileges bb sh -c 'grep -E \"CapEff|NoNewPrivs\" /proc/self/status | cut -f2'"
	feature "$2seccomp: default, unconfined" '2 0=0' "for o in '' '--security-opt seccomp=unconfined'; do $run \$o bb sh -c 'grep Seccomp: /proc/self/status | cut -f2'; done"
	feature "$2--ulimit, --sysctl, --shm-size" '123 7 8192=0' "$run --ulimit nofile=123:123 --ulimit nproc=1024:1024 --sysctl kernel.msgmni=7 --shm-size 8m bb sh -c 'ulimit -n; cat /proc/sys/kernel/msgmni; df -k /dev/shm | tail -n 1 | tr -s \" \" | cut -d\" \" -f2'"
	feature "$2a user namespace, mapped" '*0 * 5000=0' "$run --uidmap 0:${3:-10000}:5000 --gidmap 0:${3:-10000}:5000 bb cat /proc/self/uid_map"
	feature "$2commit, diff, cp, export" 'C /tmp A /tmp/f file file=0' "$podman run --name cc --network none $1 bb sh -c 'echo file >/tmp/f' && $podman diff cc | grep tmp; $podman commit -q cc c2 >/dev/null; $run c2 cat /tmp/f; $podman cp cc:/tmp/f - | tar -xO; $podman rm cc >/dev/null; $podman rmi -f c2 >/dev/null"
	feature "$2build" 'built 0=0' "printf 'FROM bb\nRUN echo built >/word && id -u >/uid\nCMD [\"cat\", \"/word\", \"/uid\"]\n' | $podman build -q --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 ${4:-} -t bld - >/dev/null && $run bld; $podman rmi -f bld >/dev/null"
}

for name in runc conex; do
	runtime=$name
	podman="podman --cgroup-manager=$MANAGER --runtime $runtime"
	$podman image exists bb || tar -C /tmp/image -c . | $podman import - bb >/dev/null 2>&1
	run="$podman run --rm --network none"
	plain "" "" 10000 "--runtime $runtime"
	feature "limits: memory, cpu, pids" '*=0' "$run -m 32m --cpus 0.5 --pids-limit 50 bb sh -c '[ \"\$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max)\" = 33554432 ] && [ \"\$(cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max)\" = 50 ]'"
	feature "OOM kill reported" 'true 137=0' "$podman run --name oom --network none -m 16m --memory-swap 16m bb sh -c 'x=\$(head -c 100000000 /dev/zero | tr \"\\0\" x)'; $podman inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' oom; $podman rm oom >/dev/null"
	feature "update, stats" '50331648 50*=0' update
	# runc has no such mode: Podman refuses it by the runtime's name.
	[ $name = runc ] || feature "--cgroups=disabled" 'same 137=0' "$podman run -d --name dd --network none --cgroups=disabled --cgroupns host bb sleep 1000 >/dev/null; cmp -s /proc/self/cgroup /proc/\$($podman inspect -f '{{.State.Pid}}' dd)/cgroup && echo same; $podman kill dd >/dev/null; $podman wait dd; $podman rm dd >/dev/null"
	# Podman looks for its own cgroup on v2 only.
	[ $MANAGER = cgroupfs ] || feature "--cgroups=split" 'yes=0' "$run --cgroups=split bb echo yes"
	feature "--device, --privileged" 'crw*mounted=0' "$run --device /dev/zero:/dev/xx bb sh -c 'ls -l /dev/xx | cut -c1-3'; $run --privileged bb sh -c 'mount -t tmpfs x /tmp && echo mounted'"
	feature "bridge network, -p" 'page=0' bridge
	feature "another container's user and PID namespace" '1 2 137 running=0' "joined 10000"
	feature "pod: namespaces shared, stats, pause, kill" 'inpod 1 stats paused 137=0' pod
	feature "kube generate, kube play, down" '1 0=0' kube
	feature "sd-notify by the container" 'READY=1 MAINPID==0' notify
	feature "health check" '1 0=0' health
	feature "restart on-failure" '2=0' "$podman run -d --name rr --network none --restart on-failure:2 bb sh -c 'exit 4' >/dev/null; until_says 2 $podman inspect -f '{{.RestartCount}}' rr; $podman rm -f rr >/dev/null"
	feature "30 containers at once" '30=0' "for i in \$(seq 30); do $run bb echo ok & done | grep -c ok"
	feature "nothing left after all" '0=0' "$podman ps -aq | wc -l"
done

# A plain user; on a host with cgroup v1 no user can have a cgroup, and Podman then refuses runc.
id worker >/dev/null 2>&1 || useradd -m worker 2>/dev/null
for file in subuid subgid; do grep -q worker /etc/$file || echo worker:400000:65536 >>/etc/$file; done
groupadd -f keepers && usermod -aG keepers worker
mkdir -p /run/user/worker
# pasta opens the tunnel device as the user.
mknod -m 666 /tmp/tun c 10 200 && mount --bind /tmp/tun /dev/net/tun
chown worker /run/user/worker
chmod 1777 /tmp /dev/shm 2>/dev/null
as="runuser -u worker -- env -C /tmp HOME=/home/worker XDG_RUNTIME_DIR=/run/user/worker TMPDIR=/tmp PODMAN_IGNORE_CGROUPSV1_WARNING=1 PATH=$PATH"
mount -t tmpfs -o mode=777 tmpfs /home/worker
for name in conex $([ $MANAGER = cgroupfs ] || echo runc); do
	runtime=$name
	podman="$as podman --cgroup-manager=cgroupfs --runtime $runtime"
	$podman image exists bb || tar -C /tmp/image -c . | $podman import - bb >/dev/null
	plain --cgroups=disabled "rootless: " 1 "--runtime $runtime"
	# Podman writes an annotation of crun's; of a group that is not mapped the number is the overflow one.
	[ $name = runc ] || feature "rootless: --group-add keep-groups" '*65534*=0' "$podman run --rm --network none --cgroups=disabled --group-add keep-groups bb id -G"
	feature "rootless: exec, stop, logs" 'log line in 3 137=0' "$podman run -d --cgroups=disabled --name ee --network none bb sh -c 'echo log line; sleep 1000' >/dev/null; sleep 0.3; $podman logs ee; $podman exec ee sh -c 'echo in; exit 3'; echo \$?; $podman stop -t 1 ee >/dev/null 2>&1; $podman inspect -f '{{.State.ExitCode}}' ee; $podman rm -f ee >/dev/null"
	feature "rootless: network (pasta, slirp4netns)" 'page=0' "$podman run -d --cgroups=disabled --name ww -p 8097:80 -v /tmp/www:/www bb httpd -f -p 80 -h /www >/dev/null; until_says page busybox wget -qO- http://127.0.0.1:8097/; $podman rm -f -t 0 ww >/dev/null"
	feature "rootless: nothing left" '0=0' "$podman ps -aq | wc -l"
	pkill -u worker catatonit
done
