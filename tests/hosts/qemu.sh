#!/bin/bash
# qemu.sh CACHE JOB [KERNEL]: boots the image with the distribution's own kernel, or one that kernel.sh has made, under QEMU in
# software emulation (no KVM is needed), with the project shared at the place it has here, runs JOB/job there as root and ends
# with its exit code. The image is not changed. LIMIT: seconds.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$(realpath "$1") job=$(realpath "$2")
top=$(realpath "$here/../..")
rm -f "$job/code" "$job/output"
if [ $# = 3 ]; then
	kernel=$3/vmlinuz initrd=$3/initrd
	modules=(-drive "file=$3/modules.ext4,format=raw,if=virtio,readonly=on")
else
	kernel=$(ls "$cache"/hosts/boot/vmlinuz-* | tail -n 1)
	initrd=$cache/hosts/boot/initrd.img-${kernel##*vmlinuz-}
	modules=()
fi
image=$cache/hosts.ext4 console=ttyS0
machine=(qemu-system-x86_64 -cpu max)
if [ "${ARCH:-amd64}" = arm64 ]; then
	image=$cache/hosts-arm64.ext4 console=ttyAMA0
	# The pointer authentication of "max" is the slowest part of its emulation.
	machine=(qemu-system-aarch64 -machine virt,gic-version=3 -cpu max,pauth=off)
fi
timeout "${LIMIT:-2400}" "${machine[@]}" -accel tcg,thread=multi -smp 2 -m 3G -nographic -nodefaults -serial stdio -no-reboot \
	-nic none -kernel "$kernel" -initrd "$initrd" -drive "file=$image,format=raw,if=virtio,snapshot=on,file.locking=off" "${modules[@]}" \
	-virtfs "local,path=$top,mount_tag=host,security_model=none,multidevs=remap" \
	-append "root=/dev/vda rw console=$console quiet systemd.gpt_auto=no fstab=no systemd.mask=ldconfig.service lsm=capability,yama,apparmor hugepages=16 top=$top job=${job#"$top"/}" \
	>"$job/console" 2>&1 </dev/null || true
[ -e "$job/code" ] || { echo "the emulated host did not finish its job; its console:"; tail -n 40 "$job/console"; exit 1; }
exit "$(cat "$job/code")"
