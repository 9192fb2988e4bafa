#!/bin/bash
# run.sh CACHE OUT TEST INTEGRATION: the engines of Debian forky and bookworm with runc, conex and conex's shim, each session in a root
# and a network namespace of its own; writes docs/managers.md and fails where runc passes and conex does not. TEST and INTEGRATION are the test
# programs of the shim and of the runtime, static binaries. SESSIONS: a part of them, as "root/script" or uml; then nothing is
# written.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$1 out=$2 test=$3 integration=$4
new=docker.io,docker-cli,docker-buildx,docker-compose,containerd,runc,podman,conmon,crun,catatonit,netavark,aardvark-dns,uidmap,passt,fuse-overlayfs,containernetworking-plugins,golang-k8s-cri-api-dev,ca-certificates,procps,iproute2,iptables,nftables,busybox-static,bsdutils,tmux,socat,python3-docker,python3-grpcio,python3-protobuf,protobuf-compiler,python3-websocket,etcd-server,etcd-client,haproxy,redis-server,docker-registry,criu,buildah,distrobox,podman-toolbox,bsdextrautils,slurmctld,slurmd,slurm-client,munge,runsc
old=docker.io,containerd,runc,podman,conmon,crun,catatonit,netavark,aardvark-dns,uidmap,slirp4netns,containernetworking-plugins,ca-certificates,procps,iproute2,iptables,nftables,busybox-static,bsdutils,tmux,socat,python3-docker,python3-grpcio,python3-protobuf,protobuf-compiler,python3-websocket,docker-compose,redis-server,docker-registry
"$here/../forky/root.sh" "$cache/managers" $new
"$here/../forky/root.sh" "$cache/managers-old" $old bookworm
# What a box of distrobox or Toolbx is made of; with less they would ask a mirror for it.
box=bash,bc,bsdutils,bzip2,curl,diffutils,findutils,gpg,hostname,iproute2,iputils-ping,less,libcap2-bin,lsof,man-db,mount,openssh-client,passwd,pigz,pinentry-curses,procps,rsync,sudo,time,tree,unzip,util-linux,wget,xauth,xdg-utils,zip
if [ -z "${SESSIONS:-}" ] || [[ " $SESSIONS " == *" managers/boxes.sh "* ]]; then
	"$here/../forky/root.sh" "$cache/box" $box
	[ "$cache/box.tar" -nt "$cache/box.stamp" ] || tar -C "$cache/box" --exclude ./usr/share/doc --exclude ./usr/share/locale --exclude ./var/lib/apt --exclude ./var/cache/apt -cf "$cache/box.tar" .
fi
mkdir -p "$cache/bin"
install -m 755 "$out/conex" "$out/conex-tools" "$out/containerd-shim-conex-v2" "$cache/bin/"
install -m 755 "$test" "$cache/bin/shim-tests"
install -m 755 "$integration" "$cache/bin/integration-tests"
enter() { # ROOT COMMAND…
	timeout -k 5 1200 unshare --net --ipc --uts "$here/../forky/enter.sh" "$cache/$1" "${@:2}"
}
session() { # LANE ROOT SCRIPT [VARIABLE=VALUE…]
	[ -z "${SESSIONS:-}" ] || [[ " $SESSIONS " == *" $2/$3 "* ]] || return 0
	local start=$SECONDS
	enter "$2" env "${@:4}" "/conex/tests/managers/$3" "/conex/$cache/managers.$1.tsv" || echo "$2/$3 ended with $?"
	echo "$2/$3: $((SECONDS - start)) s"
}
rm -f "$cache"/managers.*.tsv
# Two lanes at once: the sessions mostly wait.
(
	session 1 managers docker.sh
	session 1 managers docker-daemon.sh
	session 1 managers docker-more.sh
	session 1 managers services.sh
	session 1 managers errors.sh
) &
(
	[ -n "${SESSIONS:-}" ] || enter managers env CONEX=/conex/"$cache"/bin/conex SHIM=/conex/"$cache"/bin/containerd-shim-conex-v2 \
		BUSYBOX=/usr/bin/busybox "/conex/$cache/bin/shim-tests" containerd ||
		printf "ctr, containerd 2.1\tthe shim's own tests\tconex-shim\tfail\n" >>"$cache/managers.2.tsv"
	# With the CRIU of this root, which tries the kernel's TCP over the loopback.
	checkpoints() { # COLUMN CONEX PROGRAM
		local verdict=fail skips=$cache/checkpoint.skips
		rm -f "$skips"
		enter managers sh -c 'ip link set lo up && exec "$@"' sh env CONEX="$2" SHIM=/conex/"$cache"/bin/containerd-shim-conex-v2 BUSYBOX=/usr/bin/busybox \
			CONEX_TEST_SKIPS="/conex/$skips" "/conex/$cache/bin/$3" checkpoint:: >"$cache/checkpoint.$3.$1.log" 2>&1 && [ ! -s "$skips" ] && verdict=pass
		[ $verdict = pass ] || grep -A12 panicked "$cache/checkpoint.$3.$1.log"
		printf "CRIU\t%s: checkpoints\t%s\t%s\n" "$3" "$1" $verdict >>"$cache/managers.2.tsv"
	}
	if [ -z "${SESSIONS:-}" ] || [[ " $SESSIONS " == *" managers/checkpoint.sh "* ]]; then
		checkpoints runc /usr/sbin/runc integration-tests
		checkpoints conex /conex/"$cache"/bin/conex integration-tests
		checkpoints conex-shim /conex/"$cache"/bin/conex shim-tests
	fi
	session 2 managers checkpoint.sh
	session 2 managers ctr.sh
	session 2 managers cri.sh
	session 2 managers podman.sh
	session 2 managers podman-more.sh
	session 2 managers others.sh
	session 2 managers boxes.sh
	session 2 managers slurm.sh
	# gVisor's sandbox ends by itself now and then on a machine without its own page tables: only when it is asked for.
	[[ " ${SESSIONS:-} " != *" managers/runsc.sh "* ]] || session 2 managers runsc.sh
	session 2 managers-old docker.sh OLD=1 "ENGINE=docker 20.10"
	session 2 managers-old docker-daemon.sh OLD=1 "ENGINE=docker 20.10"
	session 2 managers-old docker-more.sh OLD=1 "ENGINE=docker 20.10"
	session 2 managers-old ctr.sh "ENGINE=ctr, containerd 1.6"
	session 2 managers-old cri.sh OLD=1 "ENGINE=CRI, containerd 1.6" \
		"CRI_PROTO=/conex/$cache/managers/usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1"
	session 2 managers-old podman.sh "ENGINE=podman 4.3"
	session 2 managers-old podman-more.sh "ENGINE=podman 4.3"
) &
wait
# The host of our own with cgroup v2 and systemd; in software, so alone.
if [ -z "${SESSIONS:-}" ] || [ "$SESSIONS" = uml ]; then
	"$here/../hosts/image.sh" "$cache"
	job=$cache/job-managers start=$SECONDS top=$(realpath "$here/../..")
	mkdir -p "$job"
	cat >"$job/job" <<-J
		cp $out/conex $out/conex-tools $out/containerd-shim-conex-v2 /root/
		tests/managers/v2.sh $top/$cache/managers.3.tsv /root
	J
	LIMIT=1500 MEMORY=3G "$here/../hosts/uml.sh" "$cache" "$job" || echo "v2.sh ended with $?"
	cat "$job/output"
	echo "uml/v2.sh: $((SECONDS - start)) s"
fi
# What the engines leave of their parents.
find /sys/fs/cgroup/*/{docker,libpod_parent,conex-test,conex-test-cri,default} -depth -type d -exec rmdir {} \; 2>/dev/null || true
cat "$cache"/managers.[123].tsv >"$cache/managers.tsv"
[ -n "${SESSIONS:-}" ] || "$here/table.sh" "$here/header.md" "$cache/managers.tsv" "$cache/managers.errors" >"$here/../../docs/managers.md"
awk -F'\t' '
	{ v[$1 "\t" $2, $3] = $4; keys[$1 "\t" $2] = 1; count[$3 " " $4]++ }
	END {
		for (k in keys) for (r in count) {
			split(r, w, " ")
			if (w[1] != "runc" && v[k, "runc"] == "pass" && v[k, w[1]] == "fail" && !told[k, w[1]]++) { print "runc passes, " w[1] " does not: " k; bad = 1 }
			if (w[1] != "runc" && v[k, "runc"] == "" && v[k, w[1]] == "fail" && !told[k, w[1]]++) { print "no control, " w[1] " fails: " k; bad = 1 }
		}
		for (c in count) print "managers: " c ": " count[c]
		if (NR < '"${LEAST:-$([ -n "${SESSIONS:-}" ] && echo 1 || echo 500)}"') { print "managers: only " NR " results: a session did not come to its end"; bad = 1 }
		exit bad
	}' "$cache/managers.tsv"
