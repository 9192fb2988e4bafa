#!/bin/bash
# podman.sh RESULTS: Podman's everyday features with runc and with conex. Runs in a Debian forky root of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { again_podman; }
export engine=${ENGINE:-podman 5.8} results=$1 PODMAN_IGNORE_CGROUPSV1_WARNING=1
bin=$(realpath ../../.cache/bin)
mkdir -p /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
image_root /tmp/image
for name in runc conex; do
	case $name in runc) runtime=/usr/sbin/runc ;; *) runtime=$bin/conex ;; esac
	[ -x "$runtime" ] || runtime=/usr/bin/$name
	podman="podman --cgroup-manager=cgroupfs --runtime $runtime"
	run="$podman run --rm --network none --rootfs /tmp/image"
	feature "run, output" 'hello=0' "$run echo hello"
	feature "exit status" '=7' "$run sh -c 'exit 7'"
	feature "missing command: 127" '=127' "$run nope"
	feature "directory as command: 126" '=126' "$run /bin"
	feature "input by pipe" 'piped=0' "echo piped | $podman run --rm -i --network none --rootfs /tmp/image cat"
	feature "a terminal" '*/dev/pts/0*=0' "script -qec '$podman run --rm -t --network none --rootfs /tmp/image tty' /dev/null"
	feature "--preserve-fds" 'through=0' "echo through >/tmp/through; $podman run --rm --preserve-fds 1 --network none --rootfs /tmp/image sh -c 'cat <&3' 3</tmp/through"
	$podman run -d --name aa --network none --rootfs /tmp/image sh -c 'echo line; sleep 1000' >/dev/null 2>&1
	feature "exec, exit status" 'in=3' "$podman exec aa sh -c 'echo in; exit 3'"
	feature "exec, missing command: 127" '=127' "$podman exec aa nope"
	feature "exec -u" '1000=0' "$podman exec -u 1000 aa id -u"
	feature "logs" 'line=0' "$podman logs aa"
	feature "pause, unpause" 'aa paused aa running=0' "$podman pause aa; $podman inspect -f '{{.State.Status}}' aa; $podman unpause aa; $podman inspect -f '{{.State.Status}}' aa"
	feature "top" '*sleep 1000*=0' "$podman top aa"
	feature "stop" 'aa 137 exited=0' "$podman stop -t 1 aa 2>/dev/null; $podman inspect -f '{{.State.ExitCode}} {{.State.Status}}' aa"
	$podman rm -f aa >/dev/null 2>&1
	feature "kill" '137=0' "$podman run -d --name kk --network none --rootfs /tmp/image sleep 1000 >/dev/null; $podman kill kk >/dev/null; $podman wait kk; $podman rm kk >/dev/null"
	feature "nothing left" '0=0' "$podman ps -aq | wc -l"
done
