#!/bin/bash
# services.sh RESULTS: a small architecture of services: etcd holds the addresses of two web containers, a watcher writes
# haproxy's configuration from them; a web container is killed -9 and replaced, while requests go on. Runs in a Debian root
# and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_docker; }
export engine=${ENGINE:-docker 28.5} results=$1 DOCKER_HOST=unix:///run/dk.sock limit=90
bin=$(realpath ../../.cache/bin)
export PATH=$bin:$PATH
docker_root
image_root /tmp/image /usr/bin/etcd /usr/bin/etcdctl /usr/sbin/haproxy
mkdir -p /tmp/image/shared
cp services/web services/watcher /tmp/image/bin/
cp services/haproxy.base /tmp/image/etc/
cp services/haproxy.base /tmp/image/shared/haproxy.cfg
ln -sf ../usr/bin/etcd ../usr/bin/etcdctl ../usr/sbin/haproxy /tmp/image/bin/
chmod 755 /tmp/image/bin/{web,watcher}

service() { docker run -d --name "$1" -h "$1" --network app "${@:2}" >/dev/null; }
fetch() { busybox wget -T 2 -qO- http://127.0.0.1:8000/cgi-bin/who 2>/dev/null; }
now() { echo $(($(date +%s%N) / 1000000)); }
# Asks until /tmp/stop is there, and leaves the longest time without an answer in /tmp/gap.
ask() {
	local last longest=0 n=0 t
	last=$(now)
	while ! [ -e /tmp/stop ]; do
		if fetch >/dev/null; then
			t=$(now)
			[ $((t - last)) -gt $longest ] && longest=$((t - last))
			last=$t n=$((n + 1))
		fi
	done
	echo "$longest $n" >/tmp/gap
}
served_by() { for _ in $(seq 8); do fetch; done | sort -u | tr '\n' ' '; }
architecture() {
	docker network create app >/dev/null
	service etcd svc etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://etcd:2379 --data-dir /tmp/etcd
	until docker exec etcd etcdctl endpoint health >/dev/null 2>&1; do sleep 0.2; done
	service web1 --memory 64m svc web
	service web2 --memory 64m svc web
	service proxy -p 8000:8000 -v shared:/shared svc haproxy -W -db -f /shared/haproxy.cfg
	service watcher --pid container:proxy -v shared:/shared svc watcher
	until_says 'web1 web2 ' served_by
	rm -f /tmp/stop
	ask &
	sleep 1
	docker kill -s KILL web1 >/dev/null
	sleep 1.5
	docker exec etcd etcdctl del /web/web1 >/dev/null
	service web3 --memory 64m svc web
	until_says 'web2 web3 ' served_by
	touch /tmp/stop
	wait
	read -r gap n </tmp/gap
	# Two checks of 300 ms and a connect of 300 ms.
	[ "$gap" -lt 1000 ] && [ "$n" -gt 20 ] && echo no gap || echo "gap of $gap ms in $n requests"
	docker rm -f etcd web1 web2 web3 proxy watcher >/dev/null
	docker volume rm shared >/dev/null
	docker network rm app >/dev/null
}
export -f service fetch now ask served_by architecture
containerd_up
for name in $(names); do
	docker_up "\"default-runtime\": \"$name\", \"bip\": \"172.31.0.1/24\""
	docker image inspect svc >/dev/null 2>&1 || tar -C /tmp/image -c . | docker import - svc >/dev/null
	feature "services: etcd, two webs, haproxy, a watcher; one web killed -9 and replaced" 'web1 web2 web2 web3 no gap=0' architecture
	docker_down
done
kill $containerd
