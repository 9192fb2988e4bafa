#!/bin/bash
# docker-more.sh RESULTS: limits by their effect, terminals, logs, devices by CDI, 32-bit programs, BuildKit, Compose, the
# API by Python, more networks, many containers, users remapped; each runtime as the daemon's default. Runs in a
# Debian root and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_docker; }
export engine=${ENGINE:-docker 28.5} results=$1 DOCKER_HOST=unix:///run/dk.sock OLD=${OLD:-}
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH limit=100
docker_root
mkdir -p /etc/cdi
mount --make-shared /tmp
image_root /tmp/image
python3 elf32.py /tmp/image/bin
cp -r compose /tmp/compose
# A directory on a real disk, which is where device limits apply.
disk=$(mktemp -d /conex/.cache/disk.XXXXXX)
trap 'rm -rf "$disk"' EXIT
export disk device
device=$(df --output=source "$disk" | tail -n 1)
cat >/etc/cdi/fake.json <<'J'
{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "devices": [{"name": "one", "containerEdits": {
  "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero", "type": "c", "major": 1, "minor": 5}],
  "mounts": [{"hostPath": "/etc/debian_version", "containerPath": "/driver", "options": ["ro", "bind"]}],
  "env": ["GPU=one"], "hooks": [{"hookName": "createContainer", "path": "/usr/bin/touch", "args": ["touch", "/tmp/hooked"]}]}}]}
J
echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}' >/tmp/nomkdir.json

# The file that counts a container's CPU time, in nanoseconds; read from outside, where no exec comes between.
counter() {
	local path
	path=$(grep -E ':([a-z]+,)?cpuacct(,[a-z]+)?:' "/proc/$(docker inspect -f '{{.State.Pid}}' "$1")/cgroup" | cut -d: -f3)
	echo "/sys/fs/cgroup/cpuacct$path/cpuacct.usage"
}
in_cgroup() { # FILE ON V1, FILE ON V2: prints the one there is
	echo "cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2"
}
shares() {
	docker run -d --name s1 --network none --cpuset-cpus 0 --cpu-shares 1024 bb sh -c 'while :; do :; done' >/dev/null
	docker run -d --name s2 --network none --cpuset-cpus 0 --cpu-shares 512 bb sh -c 'while :; do :; done' >/dev/null
	local a b c d one two
	one=$(counter s1) two=$(counter s2)
	read -r a <"$one"
	read -r b <"$two"
	sleep 4
	read -r c <"$one"
	read -r d <"$two"
	docker rm -f s1 s2 >/dev/null
	local tenths=$(((c - a) * 10 / (d - b)))
	[ $tenths -ge 16 ] && [ $tenths -le 25 ] && echo near 2:1 || echo "$tenths tenths"
}
quota() {
	docker run -d --name quota --network none --cpu-period 50000 --cpu-quota 12500 bb sh -c 'while :; do :; done' >/dev/null
	local a b start end file throttled
	file=$(counter quota) start=$(date +%s%N)
	read -r a <"$file"
	sleep 4
	read -r b <"$file"
	end=$(date +%s%N)
	throttled=$(docker exec quota awk '$1 == "nr_throttled" {print $2}' /sys/fs/cgroup/cpu/cpu.stat)
	docker rm -f quota >/dev/null
	local percent=$(((b - a) * 100 / (end - start)))
	# A busy machine gives less than what the quota allows.
	[ $percent -ge 5 ] && [ $percent -le 28 ] && [ "$throttled" -gt 20 ] && echo kept || echo "$percent %, throttled $throttled times"
}
disk_rate() { # three MiB at one MiB a second
	local start=$(date +%s%N)
	docker run --rm --network none -v "$disk:/d" --device-write-bps "$device:1mb" bb dd if=/dev/zero of=/d/f bs=1M count=3 oflag=direct 2>/dev/null
	[ $((($(date +%s%N) - start) / 1000000)) -gt 1800 ] && echo slowed
}
terminal() { # a real terminal: size, a resize, detach, attach
	tmux -L conex kill-server 2>/dev/null
	tmux -L conex new-session -d -s t -x 80 -y 24 "docker run -it --name tt --network none --detach-keys ctrl-x bb sh" || return
	until_says "true" docker inspect -f '{{.State.Running}}' tt >/dev/null
	sleep 0.5
	tmux -L conex send-keys -t t 'tty; stty size' Enter
	sleep 0.7
	tmux -L conex resize-window -t t -x 100 -y 30
	sleep 0.7
	tmux -L conex send-keys -t t 'stty size' Enter
	sleep 0.7
	tmux -L conex capture-pane -p -t t | grep -E '^/dev|^[0-9]+ [0-9]+$'
	tmux -L conex send-keys -t t C-x
	until_says 0 sh -c 'tmux -L conex list-sessions 2>/dev/null | wc -l' >/dev/null
	docker inspect -f '{{.State.Running}}' tt
	tmux -L conex new-session -d -s t -x 90 -y 20 "docker attach tt"
	sleep 0.7
	tmux -L conex send-keys -t t 'exit 5' Enter
	docker wait tt
	tmux -L conex kill-server 2>/dev/null
	docker rm -f tt >/dev/null
}
log_driver() { # DRIVER OPTIONS…
	local driver=$1
	shift
	docker run --name lg --network none --log-driver "$driver" "$@" bb sh -c 'for i in $(seq 2000); do echo line $i of the log; done' >/dev/null
	docker logs lg 2>&1 | tail -n 1
	docker rm lg >/dev/null
}
events() {
	local since
	since=$(date +%s)
	docker run --rm --name ev --network none bb true
	sleep 1
	docker events --since "$since" --until "$(date +%s)" --filter container=ev --format '{{.Action}}'
}
propagation() { # a mount made inside shows outside
	mkdir -p /tmp/prop
	mountpoint -q /tmp/prop || { mount --bind /tmp/prop /tmp/prop && mount --make-shared /tmp/prop; }
	docker run -d --name pr --network none --privileged -v "/tmp/prop:/p:$1" bb sh -c 'mkdir -p /p/in && mount -t tmpfs x /p/in && touch /p/in/f && sleep 100' >/dev/null
	sleep 0.7
	docker inspect -f '{{.State.Running}}' pr
	ls /tmp/prop/in
	docker rm -f pr >/dev/null
	umount /tmp/prop/in 2>/dev/null
}
recursive_ro() {
	mkdir -p /tmp/rro/sub
	mountpoint -q /tmp/rro/sub || mount -t tmpfs x /tmp/rro/sub
	docker run --rm --network none --mount type=bind,src=/tmp/rro,dst=/r,readonly,bind-recursive=readonly,bind-propagation=rprivate bb touch /r/sub/x 2>&1
}
archive() { # export, import, save, load
	docker run --name ex --network none bb sh -c 'echo inside >/f'
	docker export ex | docker import - exported >/dev/null
	docker save exported | docker load -q >/dev/null
	docker run --rm --network none exported cat /f
	docker rm ex >/dev/null
	docker rmi -f exported >/dev/null
}
compose() {
	local c="docker-compose -p app -f /tmp/compose/docker-compose.yml"
	$c up -d >/dev/null 2>&1
	until_says 'hits 1' busybox wget -qO- http://127.0.0.1:8090/cgi-bin/hits
	busybox wget -qO- http://127.0.0.1:8090/cgi-bin/hits
	$c up -d --scale web=1 --scale worker=3 >/dev/null 2>&1
	$c ps -q worker | wc -l
	$c restart web >/dev/null 2>&1
	until_says 'hits 3' busybox wget -qO- http://127.0.0.1:8090/cgi-bin/hits
	$c down -v >/dev/null 2>&1
	docker ps -aq --filter label=com.docker.compose.project=app | wc -l
}
buildx() {
	printf 'FROM bb AS first\nRUN --mount=type=cache,target=/c echo $((6*7)) >/answer && id -u >/uid\nFROM bb\nCOPY --from=first /answer /uid /\nUSER user\nRUN id -u >/tmp/uid\nCMD ["cat", "/answer", "/uid", "/tmp/uid"]\n' |
		DOCKER_BUILDKIT=1 docker buildx build -q --no-cache -t bx - >/dev/null || return
	docker run --rm --network none bx
	docker rmi -f bx >/dev/null
}
many() {
	local i
	for i in $(seq 100); do docker run -d --network none bb sleep 1000 >/dev/null & done
	wait
	docker ps -q | wc -l
	docker exec "$(docker ps -q | tail -n 1)" echo works
	docker rm -f $(docker ps -aq) >/dev/null
	docker ps -aq | wc -l
}
lan() { # DRIVER [OPTIONS]: two containers on a network of this driver see each other
	ip link add lan0 type veth peer name lan1 2>/dev/null
	ip link set lan0 up
	ip link set lan1 up
	docker network create -d "$1" --subnet 10.77.0.0/24 -o parent=lan0 lan >/dev/null || return
	docker run -d --name l1 --network lan --ip 10.77.0.2 bb sleep 100 >/dev/null
	docker run --rm --network lan bb ping -c 1 -W 5 10.77.0.2 | grep -c 'bytes from'
	docker rm -f l1 >/dev/null
	docker network rm lan >/dev/null
}
overlay() {
	docker swarm init --advertise-addr lo >/dev/null 2>&1
	docker network create -d overlay --attachable ov >/dev/null || return
	docker run -d --name o1 --network ov bb sleep 100 >/dev/null
	docker run --rm --network ov bb ping -c 1 -W 5 o1 | grep -c 'bytes from'
	docker rm -f o1 >/dev/null
	docker network rm ov >/dev/null
	docker swarm leave --force >/dev/null 2>&1
}
export -f counter in_cgroup shares quota disk_rate terminal log_driver events propagation recursive_ro archive compose buildx many lan overlay

containerd_up
for name in $(names); do
	buildkit=runc
	[ $name = runc ] || buildkit=conex
	docker_up "\"default-runtime\": \"$name\", \"bip\": \"172.31.0.1/24\""
	docker image inspect bb >/dev/null 2>&1 || tar -C /tmp/image -c . | docker import -c 'CMD sh' - bb >/dev/null
	docker image inspect svc >/dev/null 2>&1 || { image_root /tmp/svc /usr/bin/redis-server && cp -r compose/www /tmp/svc/ && tar -C /tmp/svc -c . | docker import - svc >/dev/null; }
	run="docker run --rm --network none"
	feature "CPU shares 1024 and 512: near 2:1" 'near 2:1=0' shares
	feature "CPU quota of a quarter is kept" 'kept=0' quota
	feature "--device-write-bps slows" 'slowed=0' disk_rate
	feature "--device-read-iops, -write-iops, -read-bps" '*:* 100 *:* 200 *:* 1048576=0' "$run --device-read-iops $device:100 --device-write-iops $device:200 --device-read-bps $device:1mb bb sh -c 'cd /sys/fs/cgroup/blkio && cat blkio.throttle.read_iops_device blkio.throttle.write_iops_device blkio.throttle.read_bps_device'"
	feature "--memory-reservation" '16777216=0' "$run --memory-reservation 16m bb sh -c '$(in_cgroup memory/memory.soft_limit_in_bytes memory.low)'"
	feature "--memory-swappiness" '7=0' "$run -m 32m --memory-swappiness 7 bb sh -c 'cat /sys/fs/cgroup/memory/memory.swappiness'"
	feature "--oom-kill-disable" '*oom_kill_disable 1*=0' "$run -m 32m --oom-kill-disable bb sh -c 'cat /sys/fs/cgroup/memory/memory.oom_control'"
	feature "--cpuset-mems" '0=0' "$run --cpuset-mems 0 bb sh -c '$(in_cgroup cpuset/cpuset.mems cpuset.mems)'"
	feature "--device-cgroup-rule" 'made 1=0' "$run --cap-add MKNOD --device-cgroup-rule 'c 1:5 rmw' bb sh -c 'mknod /z c 1 5 && echo made && head -c 1 /z | wc -c'"
	[ -n "$OLD" ] || feature "CDI: device, mount, environment, hook" '* one *=0' "rm -f /tmp/hooked; $run --device example.com/gpu=one bb sh -c '[ -c /dev/gpu0 ] && head -c 1 /dev/gpu0 >/dev/null && cat /driver && echo \$GPU' && [ -e /tmp/hooked ] && echo hooked"
	feature "terminal in tmux: size, resize, detach, attach" '/dev/pts/0 24 80 30 100 true 5=0' terminal
	feature "32-bit program" '=42' "$run bb /bin/elf32-exit"
	feature "32-bit program, a denied call: EPERM" '=1' "$run bb /bin/elf32-unshare"
	feature "seccomp=FILE" '*not permitted*=1' "$run --security-opt seccomp=/tmp/nomkdir.json bb mkdir /x 2>&1"
	[ $name = runc ] || [ -n "$OLD" ] || feature "an annotation: what seccomp has denied" '1*1 mkdir: fails with EPERM (1)*=0' "rm -f /tmp/denied; $run --annotation dev.conex.seccomp-log=/tmp/denied --security-opt seccomp=/tmp/nomkdir.json bb mkdir /x 2>/dev/null; echo \$?; for i in \$(seq 50); do [ -s /tmp/denied ] && break; sleep 0.1; done; tail -n 1 /tmp/denied"
	feature "logs: json-file, max-size" 'line 2000 of the log=0' "log_driver json-file --log-opt max-size=10k --log-opt max-file=2"
	feature "logs: local" 'line 2000 of the log=0' "log_driver local"
	feature "logs: none" '*configured logging driver does not support reading*=0' "log_driver none"
	feature "events in order" 'create * start die destroy=0' events
	feature "rename, wait, inspect" 'two 6=0' "docker run -d --name one --network none bb sh -c 'sleep 0.5; exit 6' >/dev/null; docker rename one two; docker inspect -f '{{slice .Name 1}}' two; docker wait two; docker rm two >/dev/null"
	feature "create, start -a -i" 'typed=4' "docker create -i --name cs --network none bb sh -c 'read x; echo \$x; exit 4' >/dev/null; echo typed | docker start -a -i cs; s=\$?; docker rm cs >/dev/null; exit \$s"
	feature "export, import, save, load" 'inside=0' archive
	feature "volume, rshared" 'true f=0' "propagation rshared"
	feature "volume, rslave" 'true=0' "propagation rslave 2>/dev/null; true"
	# Docker asks only runtimes given by a path for what they can.
	[ -n "$OLD" ] || [ $name = conex-shim ] || feature "mount, recursive read-only" '*Read-only file system*' recursive_ro
	feature "mount, tmpfs with size" '1024=0' "$run --mount type=tmpfs,dst=/t,tmpfs-size=1m bb sh -c 'df -k /t | tail -n 1 | tr -s \" \" | cut -d\" \" -f2'"
	feature "macvlan" '1=0' "lan macvlan"
	feature "ipvlan" '1=0' "lan ipvlan"
	feature "overlay network of a swarm" '1=0' overlay
	feature "the API, by Python" '*all well*=0' "python3 $PWD/docker_api.py"
	feature "compose: up, scale, restart, down" 'hits 1 hits 2 3 hits 3 0=0' compose
	# BuildKit in dockerd knows no shim: it calls a runtime itself.
	if [ -z "$OLD" ] && [ $name != conex-shim ]; then
		feature "buildx (BuildKit): RUN, cache mount, stages, USER" '42 0 1000=0' buildx
	fi
	limit=200 feature "100 containers at once" '100 works 0=0' many
	docker_down
	sleep 1
done

# Users remapped: another daemon root.
echo "remapped:x:2000:2000::/:/bin/false" >>/etc/passwd
echo "remapped:x:2000:" >>/etc/group
for file in subuid subgid; do grep -q remapped /etc/$file 2>/dev/null || echo remapped:300000:65536 >>/etc/$file; done
for name in $(names); do
	docker_up "\"default-runtime\": \"$name\", \"userns-remap\": \"remapped\", \"bip\": \"172.31.0.1/24\""
	docker image inspect bb >/dev/null 2>&1 || tar -C /tmp/image -c . | docker import - bb >/dev/null
	feature "userns-remap: the map" '*0 300000 65536=0' "docker run --rm bb cat /proc/self/uid_map"
	feature "userns-remap: root's files are the user's outside" '300000=0' "mkdir -p /tmp/um && chmod 777 /tmp/um; rm -f /tmp/um/f; docker run --rm -v /tmp/um:/v bb touch /v/f; stat -c %u /tmp/um/f"
	feature "userns-remap: -u, exec, a network, a terminal" '1000 172.31.0.* /dev/pts/0*=0' "docker run -d -t --name ru -u user bb sh -c 'tty >/tmp/t; sleep 100' >/dev/null; docker exec ru sh -c 'until [ -s /tmp/t ]; do sleep 0.1; done; id -u; hostname -i; cat /tmp/t'; docker rm -f ru >/dev/null"
	feature "userns-remap: --userns host" '*0 0 4294967295=0' "docker run --rm --userns host bb cat /proc/self/uid_map"
	feature "userns-remap: limits, kill" '33554432 137=0' "docker run -d --name rl -m 32m bb sleep 100 >/dev/null; docker exec rl sh -c '$(in_cgroup memory/memory.limit_in_bytes memory.max)'; docker kill rl >/dev/null; docker wait rl; docker rm rl >/dev/null"
	docker_down
done
kill $containerd
