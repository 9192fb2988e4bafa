#!/bin/bash
# docker-daemon.sh RESULTS: what concerns the whole daemon, with each runtime as its default: networks, builds, a swarm,
# live restore. Runs in a Debian root and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_docker; }
export engine=${ENGINE:-docker 28.5} results=$1 DOCKER_HOST=unix:///run/dk.sock DOCKER_BUILDKIT=0
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH limit=150
docker_root
mkdir -p /tmp/build
image_root /tmp/image
cat >/tmp/build/Dockerfile <<'E2'
FROM bb
ENV WORD=built
WORKDIR /work
COPY file /work/
ADD file /added
RUN id -u > uid && echo $WORD > word && [ "$(hostname)" != "" ]
USER 5
VOLUME /data
EXPOSE 80
HEALTHCHECK --interval=1s CMD true
ENTRYPOINT ["cat"]
CMD ["/work/word", "/work/uid", "/work/file"]
E2
echo file >/tmp/build/file
mkdir -p /tmp/www && echo page >/tmp/www/index.html

# A registry of our own on the loopback.
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /tmp/registry}, delete: {enabled: true}}\nhttp: {addr: "127.0.0.1:5000"}\n' >/tmp/registry.yml
docker-registry serve /tmp/registry.yml >/tmp/registry.log 2>&1 &
registry=$!

# The shim's process that serves the container $1: of runc's shim or ours.
server() {
	pgrep -f "containerd-shim-(runc|conex)-v2 .*-id $(docker inspect -f '{{.Id}}' "$1") .*(serve)?$" | while read -r p; do
		tr '\0' ' ' <"/proc/$p/cmdline" | grep -q ' keep ' || echo "$p"
	done
}
state() { docker inspect -f '{{.State.Running}}' sk; }
shim_killed() {
	docker run -d --name sk --network none bb sleep 1000 >/dev/null
	local pid
	pid=$(docker inspect -f '{{.State.Pid}}' sk)
	kill -9 "$(server sk)"
	until_says false state
	kill -0 "$pid" 2>/dev/null || echo gone
	docker rm -f sk >/dev/null
}
# containerd away, the shim killed, containerd back: nobody was connected, so nobody takes it for the container's end.
shim_killed_unseen() {
	docker run -d --name sk --network none bb sh -c 'while ! [ -e /go ]; do sleep 0.1; done; exit 7' >/dev/null
	local pid
	pid=$(docker inspect -f '{{.State.Pid}}' sk)
	pkill -9 -x containerd
	sleep 0.5
	kill -9 "$(server sk)"
	containerd >>/tmp/containerd.log 2>&1 &
	until_says in docker exec sk echo in
	[ "$pid" = "$(docker inspect -f '{{.State.Pid}}' sk)" ] && echo same
	docker exec sk touch /go
	docker wait sk
	docker rm -f sk >/dev/null
}
export -f server state shim_killed shim_killed_unseen

containerd_up
up() { docker_up "\"live-restore\": $2, \"default-runtime\": \"$1\", \"bip\": \"172.31.0.1/24\""; }
for name in $(names); do
	up $name true
	docker image inspect bb >/dev/null 2>&1 || tar -C /tmp/image -c . | docker import - bb >/dev/null
	feature "default-runtime" "$name=0" "docker run -d --name dd bb sleep 100 >/dev/null; docker inspect -f '{{.HostConfig.Runtime}}' dd; docker rm -f dd >/dev/null"
	feature "bridge: address, gateway" '*172.31.0.*default via 172.31.0.1*=0' "docker run --rm bb sh -c 'ip -4 addr show eth0; ip route'"
	feature "-p: a port of the host" 'page=0' "docker run -d --name web -p 8080:80 -v /tmp/www:/www bb httpd -f -p 80 -h /www >/dev/null; until_says page busybox wget -qO- http://127.0.0.1:8080/; docker rm -f web >/dev/null"
	feature "-p: to the bridge address" 'page=0' "docker run -d --name web -p 8081:80 -v /tmp/www:/www bb httpd -f -p 80 -h /www >/dev/null; until_says page docker run --rm bb wget -qO- http://172.31.0.1:8081/; docker rm -f web >/dev/null"
	feature "user-defined bridge, DNS by name" 'page=0' "docker network create n1 >/dev/null; docker run -d --name web --network n1 -v /tmp/www:/www bb httpd -f -p 80 -h /www >/dev/null; until_says page docker run --rm --network n1 bb wget -qO- http://web/; docker rm -f web >/dev/null; docker network rm n1 >/dev/null"
	feature "network connect, disconnect" '2 3 2=0' "docker network create n2 >/dev/null; docker run -d --name cn bb sleep 100 >/dev/null; n() { docker exec cn sh -c 'ls /sys/class/net | wc -l'; }; a=\$(n); docker network connect n2 cn; b=\$(n); docker network disconnect n2 cn; echo \$a \$b \$(n); docker rm -f cn >/dev/null; docker network rm n2 >/dev/null"
	feature "--network host" 'yes=0' "docker run --rm --network host bb sh -c '[ -e /sys/class/net/docker0 ] && echo yes'"
	feature "--dns, --add-host" '*nameserver 192.0.2.1*192.0.2.9*x*=0' "docker run --rm --dns 192.0.2.1 --add-host x:192.0.2.9 bb cat /etc/resolv.conf /etc/hosts"
	feature "build, all everyday instructions" 'built 0 file=0' "docker build -q --no-cache -t built /tmp/build >/dev/null && docker run --rm built; docker rmi -f built >/dev/null 2>&1"
	feature "build, a RUN that fails" '*exit 7*returned a non-zero code: 7*' "printf 'FROM bb\nRUN exit 7\n' | docker build --no-cache - 2>&1 | tail -n 2 | tr '\n' ' '"
	feature "volumes-from, backup by tar" 'kept=0' "docker run --name vv -v /data bb sh -c 'echo kept >/data/f'; docker run --rm --volumes-from vv bb tar -C /data -c f | tar -xO; docker rm -v vv >/dev/null"
	feature "live-restore: dockerd killed -9" 'same running 3=0' "docker run -d --name live bb sh -c 'while ! [ -e /go ]; do sleep 0.1; done; exit 3' >/dev/null; p=\$(docker inspect -f '{{.State.Pid}}' live); kill -9 \$(pgrep -x dockerd); sleep 0.5; kill -0 \$p && echo alive >/tmp/alive; rm -f /run/docker.pid /var/run/docker.pid; dockerd -H $DOCKER_HOST --containerd /run/containerd/containerd.sock >>/tmp/dockerd.log 2>&1 & for i in \$(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done; q=\$(docker inspect -f '{{.State.Pid}}' live); s=\$(docker inspect -f '{{.State.Status}}' live); docker exec live touch /go; [ \$p = \$q ] && echo same \$s \$(docker wait live); docker rm -f live >/dev/null"
	feature "the shim killed -9: the container's end is told" 'false gone=0' shim_killed
	[ $name != conex-shim ] || feature "the shim killed -9 while containerd is away: the container goes on" 'in same 7=0' shim_killed_unseen
	feature "a registry: push, pull, run" '*pulled=0' "docker tag bb 127.0.0.1:5000/bb:$name; docker push -q 127.0.0.1:5000/bb:$name >/dev/null; docker rmi 127.0.0.1:5000/bb:$name >/dev/null; docker run --rm --network none 127.0.0.1:5000/bb:$name echo pulled; docker rmi 127.0.0.1:5000/bb:$name >/dev/null"
	docker_down
	sleep 1
	up $name false
	feature "swarm: five replicas, scale, rolling update, a task replaced" '5 2 2 updated 2=0' "docker swarm init --advertise-addr lo >/dev/null 2>&1; docker service create -d -q --no-resolve-image --name s --network host --replicas 5 bb sleep 1000 >/dev/null; r() { docker ps -q -f label=com.docker.swarm.service.name=s | wc -l; }; export -f r; a=\$(until_says 5 r); docker service scale -d s=2 >/dev/null; b=\$(until_says 2 r); docker service update -d -q --no-resolve-image --update-delay 0s --env-add V=updated s >/dev/null; e() { for c in \$(docker ps -q -f label=com.docker.swarm.service.name=s); do docker exec \$c sh -c 'echo \$V'; done | sort -u; }; export -f e; u=\$(until_says updated e); c=\$(until_says 2 r); docker kill \$(docker ps -q -f label=com.docker.swarm.service.name=s | head -n 1) >/dev/null; sleep 1; d=\$(until_says 2 r); echo \$a \$b \$c \$u \$d"
	docker service rm s >/dev/null 2>&1
	docker swarm leave --force >/dev/null 2>&1
	sleep 2
	feature "50 containers, restart of the daemon" '50 50=0' "for i in \$(seq 50); do docker run -d --restart always --network none bb sleep 1000 >/dev/null & done; wait; a=\$(docker ps -q | wc -l); kill \$(pgrep -x dockerd); while pgrep -x dockerd >/dev/null; do sleep 0.1; done; dockerd -H $DOCKER_HOST --containerd /run/containerd/containerd.sock >>/tmp/dockerd.log 2>&1 & for i in \$(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done; n() { docker ps -q | wc -l; }; export -f n; echo \$a \$(until_says 50 n); docker rm -f \$(docker ps -aq) >/dev/null"
	docker_down
done
kill $registry
pkill -x containerd
