#!/bin/bash
# kernel.sh CACHE SUITE [ARCH]: fetches Debian's kernel of a suite (for amd64, or arm64) and makes what boots it on an image of another:
# CACHE/kernels/SUITE-ARCH with vmlinuz, release, an initrd that finds the disk, and modules.ext4, which lies over the image's
# /lib/modules. Needs mmdebstrap, kmod and e2fsprogs.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$(realpath "$1") suite=$2 arch=${3:-amd64}
to=$cache/kernels/$suite-$arch root=$cache/kernels/$suite-$arch.root
stamp="$suite $arch $(sha256sum <"$0")"
[ "$(cat "$to/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$to" "$root"
mkdir -p "$to"
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 -E '/debian/?$')
mmdebstrap --quiet --variant=extract --arch="$arch" --aptopt='Acquire::Check-Valid-Until "false"' --include="linux-image-$arch,busybox-static" \
	"$suite" "$root" "deb $site $suite main"
modules=$root/usr/lib/modules
[ -d "$modules" ] || modules=$root/lib/modules
release=$(ls "$modules")
# Newer packages have it beside the modules, and copy it to /boot when they are configured.
vmlinuz=$root/boot/vmlinuz-$release
[ -e "$vmlinuz" ] || vmlinuz=$modules/$release/vmlinuz
cp "$vmlinuz" "$to/vmlinuz"
echo "$release" >"$to/release"
depmod -b "${modules%/lib/modules}" "$release"

# What the disk takes, each after what it needs; what is not there is part of the kernel.
files=$to/initrd.files
mkdir -p "$files"/{bin,dev,proc,sys,new,lib}
busybox=$root/usr/bin/busybox
[ -e "$busybox" ] || busybox=$root/bin/busybox
cp "$busybox" "$files/bin/busybox"
for name in virtio_pci virtio_blk ext4 crc32c_generic crc32c_intel crc32c_arm64; do
	line=$(grep -E "(^|/)$name\.ko[^:/]*:" "$modules/$release/modules.dep") || continue
	# shellcheck disable=SC2086
	printf '%s\n' ${line/:/} | tac
done | awk '!seen[$0]++' >"$to/order"
while read -r module; do
	plain=$files/lib/$(basename "${module%%.ko*}").ko
	case $module in
	*.xz) xz -dc "$modules/$release/$module" >"$plain" ;;
	*.zst) zstd -dcq "$modules/$release/$module" >"$plain" ;;
	*) cp "$modules/$release/$module" "$plain" ;;
	esac
	echo "insmod /lib/$(basename "$plain")"
done <"$to/order" >"$to/insmod"
cat >"$files/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
. /insmod
n=0
until [ -b /dev/vdb ] || [ $n = 100 ]; do
	n=$((n + 1))
	sleep 0.1
done
mount -t ext4 /dev/vda /new
mount -t ext4 -o ro /dev/vdb /new/usr/lib/modules
umount /proc
exec switch_root /new /sbin/init
INIT
cp "$to/insmod" "$files/insmod"
chmod 755 "$files/init"
(cd "$files" && find . | /bin/busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$to/initrd"
truncate -s 2G "$to/modules.ext4"
# Without the journal and features that a kernel of 2020 may not know.
mke2fs -q -t ext4 -O ^has_journal,^orphan_file,^metadata_csum_seed -d "$modules" "$to/modules.ext4"
rm -rf "$root" "$files" "$to/order" "$to/insmod"
echo "$stamp" >"$to/stamp"
