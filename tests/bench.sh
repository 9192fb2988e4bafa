#!/bin/bash
# bench.sh CACHE OUT [ROUNDS]: run and exec of conex, runc and crun beside the kernel floor, interleaved on one bundle,
# in the forky root; the cgroup v2 tree of a hybrid host is hidden for all alike, because crun refuses such a host.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$1 out=$2 rounds=${3:-100}
install -m 755 "$out/conex" "$out/floor" "$out/bench" "$cache/"
HIDE_UNIFIED=1 timeout -k 5 600 "$here/forky/enter.sh" "$cache/forky" "/conex/$cache/bench" "$rounds" "/conex/$cache/conex" "/conex/$cache/floor"

# The shims, each with the runtime that it starts by default, on this host as it is.
echo
echo "## Shims"
echo
busybox=$here/../bundles/shell/rootfs/bin/busybox
shims=("conex=$(realpath "$out")/containerd-shim-conex-v2=$(realpath "$out")/conex")
[ ! -x /usr/bin/containerd-shim-runc-v2 ] || shims+=("containerd-shim-runc-v2+runc=/usr/bin/containerd-shim-runc-v2=/usr/sbin/runc")
# The shim in Rust of containerd's rust-extensions, from the registry; built once, in about five minutes.
other=$cache/rust-shim/bin/containerd-shim-runc-v2-rs
[ -x "$other" ] || cargo install --quiet containerd-runc-shim --version 0.2.0 --locked --root "$cache/rust-shim" ||
	echo "containerd-runc-shim does not build here"
[ ! -x "$other" ] || shims+=("containerd-shim-runc-v2-rs+runc=$(realpath "$other")=/usr/sbin/runc")
work=$(mktemp -d)
BUSYBOX=$busybox CONEX_TEST_DIR=$work timeout -k 5 900 unshare --mount --pid --fork --kill-child --mount-proc \
	--propagation private "$out/shimbench" "${shims[@]}"
rm -rf "$work"
