#!/bin/bash
# Runs inside the root. suite.sh runc|crun RUNTIME OUT: one line per test in OUT: file, test, ok, not ok or skip; OUT.part.log has all.
set -uo pipefail
suite=$1 runtime=$2 done=$3
out=$done.part
: >"$out"
: >"$out.log"

# TAP on standard input.
results() {
	awk -v file="$1" 'BEGIN { OFS = "\t" }
		match($0, /^(not )?ok [0-9]+ (- )?/) {
			name = substr($0, RLENGTH + 1)
			verdict = /^not/ ? "not ok" : "ok"
			if (name ~ /# *(skip|SKIP)/) { verdict = "skip"; sub(/ *# *(skip|SKIP).*/, "", name) }
			sub(/ +$/, "", name)
			print file, name, verdict
		}'
}

# What a frozen cgroup holds cannot end, and would keep this namespace.
thaw() {
	find /sys/fs/cgroup -name freezer.state \( -path '*/frozen/*' -o -path '*/test-tmp*' -o -path '*/runc-cgroups-*' \) 2>/dev/null |
		while read -r state; do echo THAWED >"$state"; done
}

of_runc() {
	cd /go/src/github.com/opencontainers/runc || exit 1
	export RUNC=$runtime GO111MODULE=off GOPATH=/go:/usr/share/gocode GOCACHE=/root/gocache
	for file in tests/integration/*.bats; do
		# CRIU serves lazy pages for ever here, below either runtime. A limit is a background job, which tests elsewhere would wait for.
		case $file in */checkpoint.bats) export BATS_TEST_TIMEOUT=60 ;; *) unset BATS_TEST_TIMEOUT ;; esac
		# The tests want a terminal; one whose input is at its end would send a NUL.
		timeout -k 5 240 script -qec "bats -F tap --print-output-on-failure $file" /dev/null 2>&1 < <(exec sleep 240 2>/dev/null) |
			tr -d '\r' | tee -a "$out.log" | results "$(basename "$file")" >>"$out"
	done
}

of_crun() {
	cd /src/crun || exit 1
	export OCI_RUNTIME=$runtime INIT=/src/crun-init
	if [ "$(basename "$runtime")" != crun ]; then
		# Tests of sd_notify ask crun's version for what it was built with.
		OCI_RUNTIME=/root/under-test
		printf '#!/bin/sh\ncase " $* " in *" --version "*) exec echo "+SYSTEMD +CAP +SECCOMP" ;; esac\nexec %s "$@"\n' "$runtime" >$OCI_RUNTIME
		chmod 755 $OCI_RUNTIME
	fi
	for file in tests/test_*.py; do
		module=$(basename "$file" .py)
		python3 -W ignore -c "import sys; sys.path.insert(0, 'tests'); import $module; print('\n'.join($module.all_tests))" |
			while read -r name; do
				text=$(RUN_TESTS=$name timeout -k 5 30 python3 -W ignore "$file" </dev/null 2>&1)
				echo "$text" >>"$out.log"
				lines=$(grep -E "^(not )?ok [0-9]+" <<<"$text" || echo "not ok 1 - $name")
				results "$module.py" <<<"$lines" | sed "s,	[^	]*	,	$name	," >>"$out"
				thaw
			done
	done
}

"of_$suite"
thaw
mv "$out" "$done"
