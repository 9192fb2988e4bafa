#!/bin/bash
# uml.sh CACHE JOB: boots the image under user-mode Linux with the project shared at the place it has here, runs JOB/job
# there as root and ends with its exit code. The image is not changed. LIMIT: seconds, MEMORY: as for mem=, LSM: the security
# module, apparmor or selinux.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$(realpath "$1") job=$(realpath "$2")
top=$(realpath "$here/../..")
rm -f "$job/code" "$job/output" "$job/cow"
inside=/conex/${cache#"$top"/}
# forky's binary needs forky's libc; its memory is a file in TMPDIR, which must be a tmpfs. Without udev and the
# generators that wait for it the host is up in a quarter of the time.
timeout -k 5 "${LIMIT:-1500}" "$here/../forky/enter.sh" "$cache/hosts" env TMPDIR=/dev/shm linux.uml mem="${MEMORY:-2G}" seccomp=auto \
	ubd0="/conex/${job#"$top"/}/cow,$inside/hosts.ext4" root=/dev/ubda rw hostfs=/conex con0=null,fd:1 con=null ssl=null quiet \
	fstab=no systemd.gpt_auto=no systemd.mask=systemd-udevd.service systemd.mask=systemd-udev-trigger.service \
	systemd.mask=systemd-udevd-kernel.socket systemd.mask=systemd-udevd-control.socket systemd.mask=ldconfig.service \
	lsm="capability,yama,${LSM:-apparmor}" top="$top" job="${job#"$top"/}" >"$job/console" 2>&1 </dev/null || true
rm -f "$job/cow"
[ -e "$job/code" ] || { echo "the user-mode host did not finish its job; its console:"; tail -n 40 "$job/console"; exit 1; }
exit "$(cat "$job/code")"
