#!/bin/bash
# enter.sh ROOT COMMAND…: runs a command in ROOT, entered by pivot_root (a plain chroot would forbid user namespaces),
# in mount and PID namespaces of its own. The project is at /conex. With HIDE_UNIFIED=1 the cgroup v2 tree of a
# hybrid host is out of sight: crun refuses such a host.
set -euo pipefail
root=$(realpath "$1")
shift
project=$(realpath "$(dirname "$0")/../..")
export root project HIDE_UNIFIED="${HIDE_UNIFIED:-}"
exec unshare --mount --pid --fork --kill-child --propagation private bash -euo pipefail -c '
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/tmp"
	mkdir -p "$root/conex"
	mount --bind "$project" "$root/conex"
	[ -z "$HIDE_UNIFIED" ] || umount "$root/sys/fs/cgroup/unified" 2>/dev/null || true
	cd "$root"
	mkdir -p run/old
	pivot_root . run/old
	cd /conex
	umount -l /run/old
	exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 ${CI:+CI=$CI} "$@"
' enter "$@"
