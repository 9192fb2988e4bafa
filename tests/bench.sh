#!/bin/bash
# bench.sh CACHE OUT [ROUNDS|quick]: run and exec of conex, runc and crun beside the kernel floor, interleaved on one bundle, then
# beside a host that is full, in the forky root; writes docs/performance.md with its plots, docs/figures.svg and
# tests/bench.landed. `quick`: three ratios of conex, in less than two minutes, compared with those of the build that landed last, in turn. The
# cgroup v2 tree of a hybrid host is hidden for all alike, because crun refuses such a host.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cache=$1 out=$2 rounds=${3:-100}
install -m 755 "$out/conex" "$out/floor" "$out/bench" "$out/crowd" "$cache/"
inside() { HIDE_UNIFIED=1 timeout -k 5 1800 "$here/forky/enter.sh" "$cache/forky" "$@"; }
# The build whose ratios are in bench.landed: a ratio of another machine, or of another day, says nothing about a change.
landed() {
	[ "$(cat "$cache/landed.commit" 2>/dev/null)" != "$commit" ] || return 0
	local target
	# Not below this one: cargo would take it for a part of its workspace.
	source=$(mktemp -d)
	trap 'rm -rf "$source"' EXIT
	target=$(basename "$(dirname "$out")")
	git -C "$here/.." archive "$commit" | tar -x -C "$source"
	(cd "$source" && CARGO_TARGET_DIR=$source/target cargo build --quiet --release --target "$target" -p conex)
	install -m 755 "$source/target/$target/release/conex" "$cache/landed"
	rm -rf "$source"
	echo "$commit" >"$cache/landed.commit"
}
if [ "$rounds" = quick ]; then
	commit=$(sed -n 's/^commit\t//p' "$here/bench.landed")
	if ! git -C "$here" cat-file -e "$commit^{commit}" 2>/dev/null; then
		echo "bench-quick: skipped: this clone has not the commit of tests/bench.landed to compare with"
		exit 0
	fi
	landed
	inside "/conex/$cache/bench" 300 "/conex/$cache/conex" "/conex/$cache/floor" quick "/conex/$cache/landed" >"$cache/quick.txt"
	inside "/conex/$cache/crowd" 60 "/conex/$cache/conex" "/conex/$cache/floor" quick "/conex/$cache/landed" >"$cache/quick.tsv"
	exec python3 "$here/ratios.py" "$cache/quick.txt" "$cache/quick.tsv" landed
fi
inside "/conex/$cache/bench" "$rounds" "/conex/$cache/conex" "/conex/$cache/floor" | tee "$cache/bench.txt"
python3 "$here/picture.py" <"$cache/bench.txt" >"$here/../docs/figures.svg"
# Where the time goes, on this host as it is: the kernel's tracing is not to be seen in there.
mkdir -p "$cache/budget/rootfs/bin"
cp /bin/busybox "$cache/budget/rootfs/bin/true"
(cd "$cache/budget" && rm -f config.json && "$OLDPWD/$out/conex" spec &&
	sed -i 's/"terminal": true/"terminal": false/; s|"sh"|"/bin/true"|' config.json)
unshare -m timeout -k 5 120 python3 "$here/budget.py" 40 "$PWD/$cache/budget" "$PWD/$out/conex" "$PWD/$out/floor" >"$cache/budget.tsv"
inside "/conex/$cache/crowd" 30 "/conex/$cache/conex" "/conex/$cache/floor" | tee "$cache/crowd.tsv"
{
	echo "$(nproc) processors ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r | cut -d- -f1), $(inside runc --version | head -n 1), $(inside crun --version | head -n 1),"
	echo "conex $(git -C "$here" rev-parse --short HEAD), $(stat -c %s "$out/conex") bytes; $rounds rounds."
} >"$cache/machine.txt"
python3 "$here/performance.py" "$cache/bench.txt" "$cache/crowd.tsv" "$cache/machine.txt" "$cache/budget.tsv" >"$here/../docs/performance.md"
{
	printf 'commit\t%s\n' "$(git -C "$here" rev-parse HEAD)"
	python3 "$here/ratios.py" "$cache/bench.txt" "$cache/crowd.tsv"
} >"$here/bench.landed"

# The shims, each with the runtime that it starts by default, on this host as it is; the bundles lie on a tmpfs, as
# containerd's do.
echo
echo "## Shims"
echo
install -m 755 "$out/containerd-shim-conex-v2" "$out/shimbench" "$cache/"
# containerd 1.6 of bookworm beside the current one.
[ ! -x /usr/bin/containerd-shim-runc-v2 ] || install -m 755 /usr/bin/containerd-shim-runc-v2 "$cache/containerd-shim-runc-v2-1.6"
# The shim in Rust of containerd's rust-extensions, from the registry; built once, in about five minutes.
other=$cache/rust-shim/bin/containerd-shim-runc-v2-rs
[ -x "$other" ] || cargo install --quiet containerd-runc-shim --version 0.2.0 --locked --root "$cache/rust-shim" ||
	echo "containerd-runc-shim does not build here"
shims=("conex=/conex/$cache/containerd-shim-conex-v2=/conex/$cache/conex" "containerd-shim-runc-v2 2.1=/usr/bin/containerd-shim-runc-v2=/usr/sbin/runc")
[ ! -x "$cache/containerd-shim-runc-v2-1.6" ] || shims+=("containerd-shim-runc-v2 1.6=/conex/$cache/containerd-shim-runc-v2-1.6=/usr/sbin/runc")
[ ! -x "$other" ] || shims+=("containerd-shim-runc-v2-rs=/conex/$other=/usr/sbin/runc")
timeout -k 5 900 "$here/forky/enter.sh" "$cache/forky" env BUSYBOX=/usr/bin/busybox CONEX_TEST_DIR=/run ${ROUNDS:+ROUNDS=$ROUNDS} \
	"/conex/$cache/shimbench" "${shims[@]}"
