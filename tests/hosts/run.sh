#!/bin/bash
# run.sh CACHE OUT INTEGRATION SHIM [HOST…]: runs the tests on each host (here, masked, systemd-v1, uml, uml-masked, selinux, qemu; all
# without a name)
# and writes docs/hosts.md when all were asked for. INTEGRATION and SHIM are the test programs. Fails if a test failed,
# was skipped without being expected to, or if a conformance program behaved otherwise than tests/hosts/*.tsv says.
set -uo pipefail
here=$(dirname "$(realpath "$0")")
top=$(realpath "$here/../..")
cd "$top" || exit 1
cache=$1 out=$2 integration=$3 shim=$4
shift 4
hosts=${*:-here masked systemd-v1 uml uml-masked selinux qemu}
results=$cache/hosts-results
mkdir -p "$results"
# Calls that kernels since 5.1 got one by one, or that an old seccomp profile around conex refuses.
masked=clone3,close_range,mount_setattr,statx
# What user-mode Linux has not: cpuset, huge pages, NUMA, RDMA; and a kernel of the distribution for the rest.
qemu_tests="resources:: config::rlimits
	lifecycle::update_changes_limits lifecycle::events_stats systemd::limits::
	apparmor:: nested::the_root devices::a_long rootless::the_users_own"

environment() { # BINARIES
	echo "export CONEX=$1/conex SHIM=$1/containerd-shim-conex-v2 BUSYBOX=${BUSYBOX_OF:-$top/bundles/shell/rootfs/bin/busybox} RUST_BACKTRACE=0"
}

job() { # HOST SUITE…: a job that runs the suites in a host of our own
	local dir=$cache/job-$1 host=$1
	mkdir -p "$dir"
	{
		echo "cp $out/conex $out/conex-tools $out/containerd-shim-conex-v2 $integration $shim /root/"
		environment /root
		echo "export OWN_HOST=1 LIMIT=1800 EXPECTED_SKIPS=tests/hosts/$host.skips"
		shift
		printf '%s\n' "bad=0" "$@" 'exit $bad'
	} >"$dir/job"
	echo "$dir"
}

on_uml() {
	local dir
	dir=$(job uml \
		"tests/run.sh /root/$(basename "$integration") --test-threads=2 || bad=1" \
		"tests/run.sh /root/$(basename "$shim") --test-threads=2 || bad=1" \
		"[ ! -d $cache/conformance/validation ] || PATH=/usr/sbin:/usr/bin:/sbin:/bin bash tests/conformance/run.sh $top/$cache/conformance /root/conex conex-uml")
	LIMIT=2400 "$here/uml.sh" "$cache" "$dir"
	local code=$?
	cat "$dir/output"
	return $code
}

on_qemu() {
	local dir
	dir=$(job qemu \
		'modprobe -a dummy rdma_rxe bfq; echo bfq >/sys/block/vda/queue/scheduler; ip link add rdma0 type dummy && ip link set rdma0 up && rdma link add rxe0 type rxe netdev rdma0' \
		"tests/run.sh /root/$(basename "$integration") --test-threads=2 $(echo $qemu_tests) || bad=1")
	LIMIT=2400 "$here/qemu.sh" "$cache" "$dir"
	local code=$?
	cat "$dir/output"
	return $code
}

# How long a loop of a shell takes, in milliseconds: here, and in the host by the job.
loop='begun=$(date +%s%N); busybox sh -c "i=0; while [ \$i -lt 300000 ]; do i=\$((i + 1)); done"; took=$((($(date +%s%N) - begun) / 1000000))'

# KERNEL_TESTS: of the last run's tests these again, by parts of their names.
on_kernel() { # NAME SUITE [ARCH]: a kernel of Debian's, the whole suites
	local dir took begun arch=${3:-amd64} BUSYBOX_OF=
	[ "$arch" = amd64 ] || BUSYBOX_OF=/usr/bin/busybox
	"$here/kernel.sh" "$cache" "$2" "$arch" || return 1
	eval "$loop"
	[ "$arch" = amd64 ] || { programs_of_arm64 && "$here/arm64.sh" "$cache"; } || return 1
	dir=$(job "$1" 'modprobe -a dummy bfq; echo bfq >/sys/block/vda/queue/scheduler' \
		"$loop; export SLOWNESS=\$((took / $took + 6)); echo \"kernel: Linux \$(uname -rm), conex $(git rev-parse --short HEAD) on $(date -u +%F), slower by \$((took / $took)): \$SLOWNESS\"" \
		"tests/run.sh /root/$(basename "$integration") --test-threads=2 ${KERNEL_TESTS:-} || bad=1" \
		"tests/run.sh /root/$(basename "$shim") --test-threads=2 ${KERNEL_TESTS:-} || bad=1")
	sed -i 's/LIMIT=1800/LIMIT=3600/' "$dir/job"
	ARCH=$arch LIMIT=7500 "$here/qemu.sh" "$cache" "$dir" "$cache/kernels/$2-$arch"
	local code=$?
	cat "$dir/output"
	return $code
}

# Programs and tests for arm64, beside this machine's own.
programs_of_arm64() {
	local target=aarch64-unknown-linux-gnu
	export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc LIBSECCOMP_LIB_PATH=$top/$cache/arm64/usr/lib/aarch64-linux-gnu
	"$here/arm64.sh" "$cache" root && make deps-cross TARGET=$target &&
		cargo build --release --target $target -p conex -p conex-tools -p containerd-shim-conex -p conex-tests || return 1
	built() { cargo test --release --target $target -p conex-tests --test "$1" --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p'; }
	out=target/$target/release integration=$(built integration) shim=$(built shim)
	[ -n "$integration" ] && [ -n "$shim" ]
}

on_systemd_v1() {
	local dir
	dir=$(job systemd-v1 "tests/run.sh /root/$(basename "$integration") --test-threads=2 systemd:: || bad=1")
	"$here/systemd-v1.sh" "$cache" "$out/conex" "$dir"
	local code=$?
	cat "$dir/output"
	return $code
}

# Without clone3 nobody is born in a cgroup: it matters where there is v2 alone.
on_uml_masked() {
	local dir
	dir=$(job uml-masked "cp $out/mask /root/" \
		"CONEX_MASK='/root/mask clone3' tests/run.sh /root/$(basename "$integration") --test-threads=2 || bad=1")
	"$here/uml.sh" "$cache" "$dir"
	local code=$?
	cat "$dir/output"
	return $code
}

on_selinux() {
	local dir
	dir=$(job selinux \
		"secilc -c 33 -o /root/policy -f /dev/null tests/hosts/selinux.cil && cat /root/policy >/sys/fs/selinux/load && echo 1 >/sys/fs/selinux/enforce" \
		"tests/run.sh /root/$(basename "$integration") --test-threads=2 selinux:: || bad=1" \
		"cp $out/mask /root/" \
		"CONEX_MASK='/root/mask $masked' tests/run.sh /root/$(basename "$integration") --test-threads=2 selinux:: || bad=1")
	LSM=selinux "$here/uml.sh" "$cache" "$dir"
	local code=$?
	cat "$dir/output"
	return $code
}

here() {
	eval "$(environment "$top/$out")"
	tests/run.sh "$integration" && tests/run.sh "$shim"
}

masked() {
	eval "$(environment "$top/$out")"
	CONEX_MASK="$top/$out/mask $masked" EXPECTED_SKIPS=tests/hosts/masked.skips tests/run.sh "$integration"
}

conformance_of_uml() {
	local bad=0 test verdict why expected
	while IFS=$'\t' read -r test verdict why; do
		expected=$(awk -F'\t' -v t="$test" '$1==t {print $2}' "$here/conformance-uml.tsv")
		[ "$expected" = either ] || [ "$verdict" = "${expected:-pass}" ] || { echo "FAIL $test: $verdict, expected ${expected:-pass}: $why"; bad=1; }
	done <"$cache/conformance/conex-uml.tsv"
	return $bad
}

code=0
for host in $hosts; do
	# A part of the tests again: of each its last verdict counts.
	[ -n "${KERNEL_TESTS:-}" ] || : >"$results/$host.log"
	case $host in
	here) here ;;
	masked) masked ;;
	systemd-v1) on_systemd_v1 ;;
	uml) "$here/image.sh" "$cache" && on_uml ;;
	uml-masked) "$here/image.sh" "$cache" && on_uml_masked ;;
	selinux) "$here/image.sh" "$cache" && on_selinux ;;
	qemu) "$here/image.sh" "$cache" && on_qemu ;;
	linux-5.10) "$here/image.sh" "$cache" && on_kernel linux-5.10 bullseye ;;
	linux-6.1) "$here/image.sh" "$cache" && on_kernel linux-6.1 bookworm ;;
	linux-6.12) "$here/image.sh" "$cache" && on_kernel linux-6.12 trixie ;;
	arm64-6.1) on_kernel arm64-6.1 bookworm arm64 ;;
	arm64-7.2) on_kernel arm64-7.2 forky arm64 ;;
	linux-7.2) "$here/image.sh" "$cache" && on_kernel linux-7.2 forky ;;
	esac >>"$results/$host.log" 2>&1 || code=1
	grep -E -A4 '^integration: |FAILED$|^FAIL |^not in |^[<>] |did not finish|panicked at' "$results/$host.log" |
		grep -vE '^--$|^running |^test .* ok$|^$|^note: ' | sed "s/^/$host: /"
	if [ "$host" = uml ] && [ -e "$cache/conformance/conex-uml.tsv" ]; then
		conformance_of_uml || code=1
		awk -F'\t' '{n[$2]++} END {for (v in n) printf "uml: conformance: %s %s\n", n[v], v}' "$cache/conformance/conex-uml.tsv"
	fi
done
# Each row of the kernels' table is of the last run on that kernel.
case $hosts in *linux-* | *arm64-*) python3 "$here/table.py" "$results" "$cache" linux-5.10 linux-6.1 linux-6.12 linux-7.2 arm64-6.1 arm64-7.2 >"$top/docs/kernels.md" ;; esac
[ $# = 0 ] && python3 "$here/table.py" "$results" "$cache" >"$top/docs/hosts.md"
exit $code
