#!/bin/bash
# systemd-v1.sh CACHE CONEX JOB: boots Debian bookworm with systemd 252 in a container of conex's own, on the v1 controllers
# of this host, with the project at the place it has here, runs JOB/job there and ends with its exit code. The root file
# system is below an overlay and is not changed. LIMIT: seconds.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$(realpath "$1") conex=$(realpath "$2") job=$(realpath "$3")
top=$(realpath "$here/../..")
root=$cache/systemd-v1
"$here/../forky/root.sh" "$root" systemd-sysv,dbus,busybox-static,procps,iproute2,kmod,util-linux bookworm
rm -f "$job/code" "$job/output"
export here top job root conex
timeout -k 5 "${LIMIT:-300}" unshare --mount --pid --fork --kill-child --mount-proc --propagation private bash -euo pipefail -c '
	mount -t tmpfs tmpfs /mnt
	mkdir -p /mnt/{upper,work,rootfs,state}
	mount -t overlay overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/rootfs
	unit=/mnt/rootfs/etc/systemd/system
	sed "s|^ExecStart=.*|ExecStart=/bin/bash -c \"cd $top; bash $job/job >$job/output 2>\&1; echo \$\$? >$job/code; systemctl exit --no-block\"|" "$here/job.service" >"$unit/job.service"
	ln -s ../job.service "$unit/multi-user.target.wants/job.service"
	python3 "$here/systemd-v1.py" "$top" >/mnt/config.json
	exec "$conex" --root /mnt/state run --bundle /mnt systemd-v1
' >"$job/console" 2>&1 </dev/null || true
# After a timeout nobody has removed them.
find /sys/fs/cgroup/*/conex-test/systemd-v1 -depth -type d -exec rmdir {} \; 2>/dev/null || true
rmdir /sys/fs/cgroup/*/conex-test 2>/dev/null || true
[ -e "$job/code" ] || { echo "systemd did not finish its job; its console:"; tail -n 40 "$job/console"; exit 1; }
exit "$(cat "$job/code")"
