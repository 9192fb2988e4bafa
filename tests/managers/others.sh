#!/bin/bash
# others.sh RESULTS: buildah by itself, and Podman with conex under the name crun, beside crun itself: what Podman then asks. Runs in a
# Debian root and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
again() { buildah rm -a >/dev/null 2>&1; $podman rm -fa -t 0 >/dev/null 2>&1; }
export results=$1 limit=60 PODMAN_IGNORE_CGROUPSV1_WARNING=1 podman=podman
bin=$(realpath ../../.cache/bin)
# For buildah and Podman by name, and for Podman under crun's.
mkdir -p /var/lib/containers /tmp/as/runc /tmp/as/conex /tmp/names
mount -t tmpfs tmpfs /var/lib/containers
ip link set lo up
# crun refuses a host with v1 and v2 beside each other.
umount /sys/fs/cgroup/unified 2>/dev/null
echo containers:3000000:6553600 | tee -a /etc/subuid >>/etc/subgid
# Without CAP_SYS_RESOURCE nobody may have buildah's limits.
export ulimits="--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
image_root /tmp/image
cp "$bin/conex" "$bin/conex-tools" /tmp/names/
ln -s /usr/bin/crun /tmp/as/runc/crun
cp "$bin/conex" /tmp/as/conex/crun
tar -C /tmp/image -c . | podman import - bb >/dev/null 2>&1
containerfile() { printf 'FROM localhost/bb\nENV V=x\nRUN echo built >/word && id -u >/uid && echo $V >/env\nUSER 1000\nWORKDIR /tmp\nRUN pwd >/tmp/where; id -u >>/tmp/where\nCMD ["cat", "/word"]\n'; }
bud() {
	containerfile | buildah bud $ulimits --runtime "$path" --isolation oci --network none -q -t bld - >/dev/null
	c=$(buildah from $ulimits bld)
	buildah run --runtime "$path" --isolation oci --network none "$c" -- cat /word /uid /env /tmp/where
	buildah rm "$c" >/dev/null
	buildah rmi bld >/dev/null
}
run_in() {
	c=$(buildah from $ulimits localhost/bb)
	buildah run --runtime "$path" --isolation oci --network none -v /tmp/image:/m:ro --cap-drop CAP_CHOWN --user 5:6 --workingdir /tmp --env V=w "$c" -- sh -c 'echo $V; pwd; id -u; id -g; touch /m/x 2>&1 | grep -o Read-only; exit 7'
	echo $?
	buildah run --runtime "$path" --isolation oci --network none "$c" -- nope 2>&1 | grep -o 'executable file.*not found' | head -n 1
	script -qec "buildah run -t --runtime $path --isolation oci --network none $c -- tty" /dev/null
	buildah rm "$c" >/dev/null
}
export -f containerfile bud run_in
for name in runc conex; do
	case $name in runc) path=/usr/sbin/runc ;; *) path=/tmp/names/conex ;; esac
	export name path
	engine="buildah 1.43" feature "build: RUN, USER, WORKDIR, ENV" 'built 0 x /tmp 1000=0' bud
	engine="buildah 1.43" feature "run: volume, capability, user, status, missing command, terminal" 'w /tmp 5 6 Read-only 7 executable file*not found */dev/pts/0*=0' run_in
	export podman="podman --cgroup-manager=cgroupfs --runtime /tmp/as/$name/crun"
	run="$podman run --rm --network none"
	# In the column of runc: crun itself.
	engine="podman 5.8, by the name crun"
	feature "run, --init, exit status" '*podman-init*7=0' "$run --init bb sh -c 'tr \"\\0\" \" \" </proc/1/cmdline; exit 7'; echo \$?"
	feature "--cgroups=disabled" 'same=0' "$podman run -d --name dd --network none --cgroups=disabled --cgroupns host bb sleep 1000 >/dev/null; cmp -s /proc/self/cgroup /proc/\$($podman inspect -f '{{.State.Pid}}' dd)/cgroup && echo same; $podman rm -f -t 0 dd >/dev/null"
	feature "exec, pause, kill, --group-add keep-groups" 'in paused running 137 0 7=0' "$podman run -d --name ee --network none bb sleep 1000 >/dev/null; $podman exec ee echo in; $podman pause ee >/dev/null; $podman inspect -f '{{.State.Status}}' ee; $podman unpause ee >/dev/null; $podman inspect -f '{{.State.Status}}' ee; $podman kill ee >/dev/null; $podman wait ee; $podman rm ee >/dev/null; setpriv --groups 7 -- $run --group-add keep-groups bb id -G | tr ' ' '\n'"
	feature "a user namespace" '*0 3000000 1024=0' "$run --uidmap 0:3000000:1024 --gidmap 0:3000000:1024 bb cat /proc/self/uid_map"
	feature "--annotation run.oci.*, --umask, --timeout" '0027 255=0' "$run --annotation run.oci.hooks.stdout=/tmp/x --umask 0027 bb sh -c umask; $run --timeout 1 bb sleep 100; echo \$?"
done
