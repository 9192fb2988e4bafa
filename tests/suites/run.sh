#!/bin/bash
# run.sh CACHE OUT [SUITE…]: the suites of runc and crun, each with its own runtime as control and with conex, and those of
# containerd (client, cri) with runc, with conex and with conex's shim; writes docs/suites.md if all four ran. Fails where a test
# that passes with the control does not pass with conex and tests/suites/differences.tsv has no reason for it, or where a difference that it has is none any more. What the control gave is kept with the root; AGAIN=1 asks
# it anew.
set -euo pipefail
cache=$1 out=$2
shift 2
here=$(dirname "$0")
[ $# -gt 0 ] || set -- runc crun client cri
declare -A control=([runc]=/usr/sbin/runc [crun]=/usr/bin/crun)
# Their processes end with the namespaces of the root; the cgroups are the host's.
tidy() {
	find /sys/fs/cgroup -mindepth 2 -depth -type d \( -path /sys/fs/cgroup/freezer/frozen -o -path '*/test-tmp*' -o -path '*/runc-cgroups-integration-test*' \
		-o -path '/sys/fs/cgroup/*/testing*' -o -path '/sys/fs/cgroup/*/k8s.io*' -o -path '/sys/fs/cgroup/*/containerd-test*' \
		-o -path '/sys/fs/cgroup/*/containerd' -o -path '/sys/fs/cgroup/*/containerd/*shim' \) \
		-exec rmdir {} \; 2>/dev/null || true
	# Where a hierarchy is not mounted its place is an ordinary directory, in which containerd's tests make theirs all the same.
	find /sys/fs/cgroup -mindepth 2 -maxdepth 2 -xdev -type d \( -name containerd -o -regex '.*/[0-9]+' \) -exec rm -rf {} + 2>/dev/null || true
}
trap tidy EXIT
for suite; do
	case $suite in
	client | cri) root=$cache/suites-containerd made=containerd columns="runc conex conex-shim" ;;
	*) root=$cache/suites made=peers columns="$suite conex" ;;
	esac
	"$here/root.sh" "$cache" $made
	install -D -m 755 "$out/conex" "$out/conex-tools" "$out/containerd-shim-conex-v2" -t "$root/usr/local/bin"
	for column in $columns; do
		# crun refuses a host with v1 and v2 beside each other.
		[ "$suite" = crun ] && export HIDE_UNIFIED=1 || unset HIDE_UNIFIED
		[ "$column" = "${columns%% *}" ] && [ -z "${AGAIN:-}" ] && [ "$cache/suite-$suite-$column.tsv" -nt "$root/suites.stamp" ] && continue
		if [ $made = containerd ]; then
			timeout -k 10 1300 unshare --net --ipc --uts "$here/../forky/enter.sh" "$root" \
				/conex/tests/suites/containerd/suite.sh "$suite" "$column" "/root/$suite-$column.tsv" </dev/null
		else
			runtime=${control[$column]:-/usr/local/bin/conex}
			timeout -k 10 1500 "$here/../forky/enter.sh" "$root" /conex/tests/suites/suite.sh "$suite" "$runtime" "/root/$suite-$column.tsv" </dev/null
		fi
		cp "$root/root/$suite-$column.tsv" "$cache/suite-$suite-$column.tsv"
		tidy
	done
done
MADE="$(date -u +%F), commit $(git -C "$here" rev-parse --short HEAD)" python3 "$here/table.py" "$cache" "$here" "$@" >docs/suites.md.new || { rm -f docs/suites.md.new; exit 1; }
[ $# -lt 4 ] || mv docs/suites.md.new docs/suites.md
rm -f docs/suites.md.new
