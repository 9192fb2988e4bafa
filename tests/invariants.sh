#!/bin/bash
# The invariants of docs/architecture.md, as far as a search can keep them.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
forbid() { # what, pattern, paths…
	local what=$1 pattern=$2
	shift 2
	if git grep -nE "$pattern" -- "$@"; then
		echo "invariant broken: $what" >&2
		bad=1
	fi
}
forbid 'no unsafe outside runtime/sys' '\bunsafe\b *(\{|fn|impl)' '*.rs' ':!runtime/sys'
# `run --seccomp-log` answers in threads, in the second program, which clones nothing itself.
forbid 'no thread in the runtime' 'thread::spawn|thread::Builder|thread::scope' 'runtime/' ':!runtime/tools/src/seccomp/watch.rs' ':!runtime/tools/src/seccomp/agent.rs' ':!runtime/tools/src/seccomp/judge.rs'
forbid 'plan has no side effect' 'std::fs::|File::|Command::|nix::(unistd|mount|fcntl|sys)::' 'runtime/plan/src/'
forbid 'child never parses config.json' 'serde_json|oci::config::Spec' 'runtime/child/'
forbid 'only main and log print' '\b(e?println|e?print)!' 'runtime/*/src/' 'runtime/src/' ':!runtime/src/main.rs' ':!runtime/*build.rs' ':!runtime/acts/src/log.rs' ':!runtime/tools/'
forbid 'the shim never forks or enters a namespace, but for a pod that it is itself' '\b(fork|clone3|setns|unshare)\(' 'shim/' ':!shim/src/pod.rs' ':!shim/keeper/src/namespaces.rs'
forbid 'no thread in the shim' 'thread::spawn|spawn_blocking|new_multi_thread' 'shim/'
forbid 'only main and delete print' '\b(e?println|e?print)!' 'shim/' ':!shim/src/main.rs' ':!shim/src/delete.rs'
forbid 'only main ends the program' 'process::exit' 'runtime/src/' 'runtime/plan/' 'runtime/acts/' 'runtime/child/' 'runtime/host/'
# The compiler keeps the crates apart (plan, acts, child, host, verbs); inside one there is no circle of modules either.
python3 tests/circles.py --files runtime/*/src runtime/src shim/src shim/keeper/src || bad=1
python3 tests/names.py docs/architecture.md CONTRIBUTING.md || bad=1
if git ls-files '*.rs' | xargs wc -l | awk '$2 != "total" && $1 > 500 {print; found = 1} END {exit !found}'; then
	echo "files over 500 lines (the table of system calls is data)"
fi
exit $bad
