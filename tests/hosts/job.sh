#!/bin/bash
# Runs inside a test host: mounts the project that the host shares at the place it has there, runs the job that the
# kernel's command line names, leaves output and exit code beside it, and powers off.
for word in $(cat /proc/cmdline); do
	case $word in top=*) top=${word#top=} ;; job=*) job=${word#job=} ;; esac
done
mkdir -p "$top"
mount -t hostfs none "$top" 2>/dev/null || mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 host "$top"
cd "$top"
bash "$job/job" >"$job/output" 2>&1
echo $? >"$job/code"
sync
systemctl poweroff --no-block 2>/dev/null || busybox poweroff -f
