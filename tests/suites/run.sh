#!/bin/bash
# run.sh CACHE OUT [SUITE…]: the suites of runc and crun, each with its own runtime as control and with conex; writes
# docs/suites.md. Fails where a test that passes with the control does not pass with conex and tests/suites/differences.tsv has
# no reason for it, or where a difference that it has is none any more. What the control gave is kept with the root; AGAIN=1 asks
# it anew.
set -euo pipefail
cache=$1 out=$2
shift 2
here=$(dirname "$0")
[ $# -gt 0 ] || set -- runc crun
"$here/root.sh" "$cache"
root=$cache/suites
install -D -m 755 "$out/conex" "$root/usr/local/bin/conex"
install -m 755 "$out/conex-tools" "$root/usr/local/bin/conex-tools"
declare -A control=([runc]=/usr/sbin/runc [crun]=/usr/bin/crun)
# Their processes end with the namespaces of the root; the cgroups are the host's.
tidy() {
	find /sys/fs/cgroup -mindepth 2 -depth -type d \( -path /sys/fs/cgroup/freezer/frozen -o -path '*/test-tmp*' -o -path '*/runc-cgroups-integration-test*' \) \
		-exec rmdir {} \; 2>/dev/null || true
}
trap tidy EXIT
for suite; do
	for runtime in "${control[$suite]}" /usr/local/bin/conex; do
		name=$(basename "$runtime")
		# crun refuses a host with v1 and v2 beside each other.
		[ "$suite" = crun ] && export HIDE_UNIFIED=1 || unset HIDE_UNIFIED
		[ "$suite-$name-${AGAIN:-}" = "$suite-$suite-" ] && [ -s "$root/root/$suite-$name.tsv" ] && continue
		timeout -k 10 1500 "$here/../forky/enter.sh" "$root" /conex/tests/suites/suite.sh "$suite" "$runtime" "/root/$suite-$name.tsv" </dev/null
		tidy
	done
done
MADE="$(date -u +%F), commit $(git -C "$here" rev-parse --short HEAD)" python3 "$here/table.py" "$root/root" "$here" "$@" >docs/suites.md.new || { rm -f docs/suites.md.new; exit 1; }
[ $# -lt 2 ] || mv docs/suites.md.new docs/suites.md
rm -f docs/suites.md.new
