#!/bin/bash
# image.sh CACHE: makes the root file system of the test hosts (Debian forky: systemd, D-Bus, AppArmor, peers, the
# user-mode kernel and the distribution's kernel) and packs it as an ext4 image, unless both are there.
# Runs in about 5 minutes; needs mmdebstrap and e2fsprogs.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$(realpath "$1")
root=$cache/hosts image=$cache/hosts.ext4
packages=systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,kmod,apparmor,iproute2,iptables,procps,util-linux
packages+=,busybox-static,e2fsprogs,strace,uidmap,passt,fuse-overlayfs,runc,crun,conmon,netavark,aardvark-dns
packages+=,nftables,catatonit,socat,docker-cli,secilc
packages+=,criu,systemd-container,python3-grpcio,python3-websocket,python3-protobuf,protobuf-compiler,golang-k8s-cri-api-dev,containerd,docker.io,podman,user-mode-linux,linux-image-amd64
"$here/../forky/root.sh" "$root" "$packages"
stamp="$(cat "$here/image.sh" "$here/job.service" "$here/job.sh" "$root.stamp" | sha256sum)"
[ -e "$image" ] && [ "$(cat "$image.stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -f "$image.stamp"

cp -r "$root"/usr/lib/uml/modules/* "$root/lib/modules/"
install -m 644 "$here/job.service" "$root/etc/systemd/system/job.service"
install -m 755 "$here/job.sh" "$root/usr/local/sbin/job"
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_IGNORE_CHROOT=1 "$@" 2>/dev/null; }
grep -q '^user:' "$root/etc/passwd" || inside useradd --uid 1000 --create-home --shell /bin/bash user
echo user:100000:65536 | tee "$root/etc/subuid" >"$root/etc/subgid"
mkdir -p "$root/var/lib/systemd/linger" "$root/host"
touch "$root/var/lib/systemd/linger/user"
inside systemctl --quiet enable job.service
# Engines are started by the tests that want them; timers would write to the disk in between.
inside systemctl --quiet disable docker.service docker.socket containerd.service podman.service podman.socket \
	podman-restart.service podman-auto-update.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_reap.service fstrim.timer || true
inside systemctl --quiet mask systemd-networkd-wait-online.service getty@tty1.service e2scrub_all.timer
inside systemctl --quiet set-default multi-user.target
echo conex-host >"$root/etc/hostname"
: >"$root/etc/fstab"
# The distribution's hundred profiles take half of the time of booting; the tests load their own.
find "$root/etc/apparmor.d" -maxdepth 1 -type f -delete
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

rm -f "$image"
truncate -s 6G "$image"
mke2fs -q -t ext4 -d "$root" -E lazy_itable_init=1 "$image"
echo "$stamp" >"$image.stamp"
