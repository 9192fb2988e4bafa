#!/bin/bash
# arm64.sh CACHE [root]: the root file system of the arm64 host (Debian forky's packages, unpacked and not configured, as nothing
# here can run them) and its image, unless they are there; with `root` only the former, whose libseccomp the tests are
# linked with. PID 1 is a script: there is no systemd.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$(realpath "$1") root=$cache/arm64 image=$cache/hosts-arm64.ext4
packages=bash,perl-base,coreutils,util-linux,mount,procps,findutils,grep,mawk,sed,diffutils,hostname,kmod,iproute2,busybox-static,e2fsprogs
packages+=,squashfs-tools,strace,runc,libseccomp-dev,base-files,base-passwd,libc-bin
if [ "$(cat "$root.stamp" 2>/dev/null)" != "$packages" ]; then
	rm -rf "$root" "$root.stamp"
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 -E '/debian/?$')
	mmdebstrap --quiet --variant=extract --arch=arm64 --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" \
		forky "$root" "deb $site forky main"
	echo "$packages" >"$root.stamp"
fi
[ "${2:-}" != root ] || exit 0
stamp=$(cat "$0" "$here/job.sh" "$root.stamp" | sha256sum)
[ -e "$image" ] && [ "$(cat "$image.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -f "$image.stamp"
install -D -m 755 "$here/job.sh" "$root/usr/local/sbin/job"
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
grep -q '^user:' "$root/etc/passwd" || echo 'user:x:1000:1000::/home/user:/bin/bash' >>"$root/etc/passwd"
mkdir -p "$root/home/user" "$root/host" "$root/usr/lib/modules"
[ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
[ -e "$root/usr/bin/sh" ] || ln -s bash "$root/usr/bin/sh"
cat >"$root/usr/sbin/init" <<'INIT'
#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
ln -s /proc/self/fd /dev/fd
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control; done
mount --make-rshared /
ldconfig
ip link set lo up
hostname conex-host
/usr/local/sbin/job
sync
busybox poweroff -f
INIT
chmod 755 "$root/usr/sbin/init"
rm -f "$image"
truncate -s 3G "$image"
mke2fs -q -t ext4 -d "$root" -E lazy_itable_init=1 "$image"
echo "$stamp" >"$image.stamp"
