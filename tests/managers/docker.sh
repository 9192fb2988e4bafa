#!/bin/bash
# docker.sh RESULTS: Docker's everyday features with runc, with conex as its runtime, and with conex's shim. Runs in a
# Debian root of its own (network namespace included).
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_docker; }
export engine=${ENGINE:-docker 28.5} results=$1 DOCKER_HOST=unix:///run/dk.sock
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH
docker_root
containerd_up
docker_up '"iptables": false, "ip6tables": false, "bridge": "none"'
image_root /tmp/image
tar -C /tmp/image -c . | docker import - bb >/dev/null

for name in $(names); do
	run="docker run --rm --network none --runtime $name"
	feature "run, output" 'hello=0' "$run bb echo hello"
	feature "exit status" '=7' "$run bb sh -c 'exit 7'"
	feature "killed by a signal: 128 + n" '=143' "$run --init bb sh -c 'kill -TERM \$\$'"
	feature "missing command: 127" '=127' "$run bb nope"
	feature "directory as command: 126" '=126' "$run bb /bin"
	feature "not executable: 126" '=126' "$run bb /etc/passwd"
	feature "input by pipe" 'piped=0' "echo piped | $run -i bb cat"
	feature "a terminal (-t)" '/dev/pts/0=0' "$run -t bb tty"
	feature "--init" '*docker-init*=0' "$run --init bb cat /proc/1/cmdline"
	feature "--user, --group-add" 'uid=1000(user) gid=1000(user) groups=*5*=0' "$run -u user --group-add 5 bb id"
	feature "-e, -w" 'x /tmp=0' "$run -e V=x -w /tmp bb sh -c 'echo \$V \$PWD'"
	feature "--hostname" 'box=0' "$run -h box bb hostname"
	feature "--read-only" '*Read-only file system*=1' "$run --read-only bb touch /x 2>&1"
	feature "--tmpfs" 'tmpfs=0' "$run --tmpfs /t:size=1m bb sh -c 'grep \" /t \" /proc/mounts | cut -d\" \" -f1'"
	feature "-v, :ro" '*Read-only*=1' "mkdir -p /tmp/v; $run -v /tmp/v:/v:ro bb touch /v/x 2>&1"
	feature "named volume" 'kept=0' "docker volume create vol >/dev/null; $run -v vol:/v bb sh -c 'echo kept >/v/f'; $run -v vol:/v bb cat /v/f; docker volume rm vol >/dev/null"
	feature "-m and --memory-swap" '33554432 33554432=0' "$run -m 32m --memory-swap 32m -v /sys/fs/cgroup:/cg:ro bb sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes'"
	feature "--cpus, --cpu-shares" '50000 512=0' "$run --cpus 0.5 --cpu-shares 512 bb cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares"
	feature "--cpuset-cpus" '0=0' "$run --cpuset-cpus 0 bb cat /sys/fs/cgroup/cpuset/cpuset.cpus"
	feature "--pids-limit stops a fork bomb" '*fork*' "$run --pids-limit 10 bb sh -c 'for i in \$(seq 30); do sleep 2 & done' 2>&1"
	feature "OOM kill reported" 'true 137=0' "docker run --name oom --network none --runtime $name -m 16m --memory-swap 16m bb sh -c 'x=\$(head -c 100000000 /dev/zero | tr \"\\0\" x)'; until_says 'true 137' docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' oom; docker rm oom >/dev/null"
	feature "--ulimit" '123=0' "$run --ulimit nofile=123:456 bb sh -c 'ulimit -n'"
	feature "--shm-size" '8192=0' "$run --shm-size 8m bb sh -c 'df -k /dev/shm | tail -1 | tr -s \" \" | cut -d\" \" -f2'"
	feature "--device" 'crw*/dev/xx=0' "$run --device /dev/zero:/dev/xx bb sh -c 'ls -l /dev/xx | tr -s \" \" | cut -d\" \" -f1,10'"
	feature "device rules" '*not permitted*=1' "$run --cap-add MKNOD bb sh -c 'mknod /x b 7 0; head -c1 /x' 2>&1"
	feature "--sysctl" '7=0' "$run --sysctl kernel.msgmni=7 bb cat /proc/sys/kernel/msgmni"
	feature "--oom-score-adj" '500=0' "$run --oom-score-adj 500 bb cat /proc/self/oom_score_adj"
	feature "default seccomp profile" '2 denied=0' "$run bb sh -c 'grep Seccomp: /proc/self/status | cut -f2; unshare -U true 2>/dev/null || echo denied'"
	feature "seccomp=unconfined" '0=0' "$run --security-opt seccomp=unconfined bb sh -c 'grep Seccomp: /proc/self/status | cut -f2'"
	feature "no-new-privileges" '1=0' "$run --security-opt no-new-privileges bb sh -c 'grep NoNewPrivs /proc/self/status | cut -f2'"
	feature "--cap-drop ALL, --cap-add" '0000000000000400=0' "$run --cap-drop ALL --cap-add NET_BIND_SERVICE bb sh -c 'grep CapEff /proc/self/status | cut -f2'"
	feature "--privileged" '0=0' "$run --privileged bb sh -c 'mount -t tmpfs x /tmp && grep Seccomp: /proc/self/status | cut -f2'"
	feature "masked paths" '=0' "$run bb cat /proc/keys /proc/timer_list"
	feature "--pid host" 'yes=0' "$run --pid host bb sh -c 'ps | grep -q dockerd && echo yes'"
	feature "--ipc, --uts host" 'yes=0' "$run --ipc host --uts host bb sh -c 'echo yes'"
	feature "--network container" '1=0' "docker run -d --name first --network none --runtime $name bb sleep 100 >/dev/null; docker run --rm --runtime $name --network container:first bb sh -c 'ls /sys/class/net | wc -l'; docker rm -f first >/dev/null"
	docker run -d --name cc --network none --runtime $name bb sh -c 'echo log line; sleep 1000' >/dev/null
	feature "exec, exit status" 'in=3' "docker exec cc sh -c 'echo in; exit 3'"
	feature "exec, missing command" "*=$([ -n "${OLD:-}" ] && echo 126 || echo 127)" "docker exec cc nope"
	feature "exec -u -e -w" '1000 x /tmp=0' "docker exec -u 1000 -e V=x -w /tmp cc sh -c 'id -u; echo \$V \$PWD'"
	feature "exec -i" 'x=0' "echo x | docker exec -i cc cat"
	feature "exec -t" '/dev/pts/*=0' "script -qec 'docker exec -t cc tty' /dev/null"
	feature "exec -d" 'yes=0' "docker exec -d cc touch /tmp/d; until_says yes docker exec cc sh -c '[ -e /tmp/d ] && echo yes'"
	feature "logs" 'log line=0' "docker logs cc"
	feature "pause, unpause" 'cc paused cc running=0' "docker pause cc; docker inspect -f '{{.State.Status}}' cc; docker unpause cc; docker inspect -f '{{.State.Status}}' cc"
	feature "update of limits" 'cc *50331648=0' "docker update -m 48m --memory-swap 48m cc; docker exec cc cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
	feature "stats" '*iB / 48MiB [12]=0' "docker stats --no-stream --format '{{.MemUsage}} {{.PIDs}}' cc"
	feature "top" '*sleep 1000*=0' "docker top cc"
	feature "cp" 'file=0' "echo file >/tmp/f; docker cp /tmp/f cc:/tmp/f >/dev/null 2>&1; docker exec cc cat /tmp/f"
	feature "diff, commit" '*/tmp/f*sha256:*=0' "docker diff cc; docker commit cc img:x; docker rmi img:x >/dev/null"
	feature "restart" 'cc running=0' "docker restart -t 1 cc; docker inspect -f '{{.State.Status}}' cc"
	feature "stop: SIGTERM, then SIGKILL" 'cc 137=0' "docker stop -t 1 cc; docker inspect -f '{{.State.ExitCode}}' cc"
	feature "start again, kill" 'cc cc 137=0' "docker start cc; docker kill cc; docker wait cc"
	docker rm -f cc >/dev/null 2>&1
	feature "--restart on-failure" 'exited 2 4=0' "docker run -d --name rr --network none --runtime $name --restart on-failure:2 bb sh -c 'exit 4' >/dev/null; r() { docker inspect -f '{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}' rr; }; export -f r; until_says 'exited 2 4' r; docker rm -f rr >/dev/null"
	feature "--stop-signal" 'sg 9=0' "docker run -d --name sg --stop-signal USR1 --network none --runtime $name bb sh -c 'trap \"exit 9\" USR1; echo up; while :; do sleep 0.05; done' >/dev/null; until_says up docker logs sg >/dev/null; docker stop sg; docker inspect -f '{{.State.ExitCode}}' sg; docker rm sg >/dev/null"
	feature "--stop-timeout" 'st 137=0' "docker run -d --name st --stop-timeout 1 --network none --runtime $name bb sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.1; done' >/dev/null; until_says up docker logs st >/dev/null; s=\$SECONDS; docker stop st; [ \$((SECONDS - s)) -lt 6 ] && docker inspect -f '{{.State.ExitCode}}' st; docker rm -f st >/dev/null"
	feature "--restart always" 'again=0' "docker run -d --name rs --network none --runtime $name --restart always bb true >/dev/null; r() { [ \$(docker inspect -f '{{.RestartCount}}' rs) -ge 2 ] && echo again; }; export -f r; until_says again r; docker rm -f rs >/dev/null"
	same "--kernel-memory: the engine's answer" "$run --kernel-memory 50m bb echo ran 2>&1"
	feature "--blkio-weight" '*ran=0' "$run --blkio-weight 300 bb echo ran"
	feature "health check" 'healthy=0' "docker run -d --name hc --health-cmd true --health-interval 1s --network none --runtime $name bb sleep 100 >/dev/null; sleep 2.5; docker inspect -f '{{.State.Health.Status}}' hc; docker rm -f hc >/dev/null"
	feature "20 containers at once" '20=0' "for i in \$(seq 20); do docker run --rm --network none --runtime $name bb echo ok & done | grep -c ok"
	feature "nothing left" '0=0' "sleep 0.5; docker ps -aq | wc -l"
done
docker_down
kill $containerd
