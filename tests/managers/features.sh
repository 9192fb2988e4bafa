# Sourced by the sessions: one line for each feature, `engine <tab> feature <tab> runtime <tab> pass|fail`. Expects $engine
# (the name in the table), $results (the file of lines) and, for the programs under test, $bin.

# A root file system for images, from Debian's busybox, and more programs of the root with their libraries.
image_root() { # DIRECTORY PROGRAM…
	local root=$1 file a
	shift
	mkdir -p "$root"/{bin,proc,sys,dev,etc,tmp,run,root,var}
	chmod 1777 "$root/tmp"
	cp /usr/bin/busybox "$root/bin/"
	for a in $("$root/bin/busybox" --list); do [ -e "$root/bin/$a" ] || ln -s busybox "$root/bin/$a"; done
	printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
	for file in "$@"; do
		for a in "$file" $(ldd "$file" 2>/dev/null | grep -oE '/[^ ]+'); do install -D "$a" "$root$a"; done
	done
}

# feature NAME WANTED COMMAND: runs the command; its standard output with white space made single, then its exit status
# after an equals sign, must match the pattern WANTED. What a failure leaves is put away by `again`, for those that follow.
feature() {
	local out status verdict=pass
	[ -z "${ONLY:-}" ] || [[ $1 == *$ONLY* ]] || return 0
	out=$(timeout -k 3 "${limit:-40}" bash -c "$3" 2>/tmp/stderr </dev/null)
	status=$?
	out="$(tr -s ' \t\r\n' ' ' <<<"$out")"
	out="${out% }=$status"
	# shellcheck disable=SC2053 # a pattern
	if [[ $out != $2 ]]; then
		verdict=fail
		echo "$engine: $1 with $name: wanted $2, got $out; $(head -c 300 /tmp/stderr)" >&2
		again >/dev/null 2>&1
	fi
	printf '%s\t%s\t%s\t%s\n' "$engine" "$1" "$name" $verdict >>"$results"
}
# same NAME COMMAND: what the engine answers with runc, whatever that is, is what it must answer with the others.
same() {
	local file="/tmp/same.${1//[^a-z]/}"
	if [ "$name" = runc ]; then
		local out status
		out=$(timeout -k 3 "${limit:-40}" bash -c "$2" 2>/dev/null </dev/null)
		status=$?
		out="$(tr -s ' \t\r\n' ' ' <<<"$out")"
		sed 's/[][*?\\]/\\&/g' <<<"${out% }=$status" >"$file"
	fi
	feature "$1" "$(cat "$file")" "$2"
}
again() { :; }
# For Docker: all but the container cc, which belongs to several features.
again_docker() {
	docker ps -a --format '{{.Names}}' | grep -vx cc | xargs -r docker rm -f
	docker network prune -f
	docker volume prune -f
}
again_podman() {
	$podman pod rm -fa -t 0
	$podman ps -a --format '{{.Names}}' | grep -vx aa | xargs -r $podman rm -f -t 0
}

until_says() { # WANT COMMAND…: repeats the command until it prints what is wanted, for 20 seconds
	local want=$1 i out
	shift
	for i in $(seq 100); do
		out=$("$@" 2>/dev/null)
		[ "$out" = "$want" ] && break
		sleep 0.2
	done
	echo "$out"
}
export -f until_says

# What every dockerd of these sessions stands on: a data root of its own, and a network namespace that forwards.
docker_root() {
	mkdir -p /var/lib/dk
	mount -t tmpfs tmpfs /var/lib/dk
	ip link set lo up
	echo 1 >/proc/sys/net/ipv4/ip_forward
}

# The runtimes of a dockerd: 20.10 has no `runtimeType`, so nothing to call our shim by.
docker_runtimes() {
	local shim=', "conex-shim": {"runtimeType": "io.containerd.conex.v2"}'
	[ -z "${OLD:-}" ] || shim=
	echo "\"runtimes\": {\"conex\": {\"path\": \"$bin/conex\"}$shim}"
}
names() { if [ -n "${OLD:-}" ]; then echo runc conex; else echo runc conex conex-shim; fi; }

containerd_up() {
	containerd >/tmp/containerd.log 2>&1 &
	containerd=$!
	for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
}

# dockerd with these further lines of daemon.json, waited for. With BuildKit's runtime in $buildkit.
docker_up() { # JSON…
	local snapshotter='"features": {"containerd-snapshotter": false, "cdi": true}, '
	[ -z "${OLD:-}" ] || snapshotter=
	mkdir -p /etc/docker
	echo "{\"data-root\": \"/var/lib/dk\", \"storage-driver\": \"overlay2\", $snapshotter $(docker_runtimes)${1:+, $*}}" >/etc/docker/daemon.json
	DOCKER_BUILDKIT_RUNC_COMMAND=${buildkit:-runc} dockerd -H "$DOCKER_HOST" --containerd /run/containerd/containerd.sock >>/tmp/dockerd.log 2>&1 &
	for _ in $(seq 1 150); do docker version >/dev/null 2>&1 && return; sleep 0.2; done
	tail -n 5 /tmp/dockerd.log
}
docker_down() {
	pkill -x dockerd
	for _ in $(seq 1 150); do pgrep -x dockerd >/dev/null || return; sleep 0.2; done
}
