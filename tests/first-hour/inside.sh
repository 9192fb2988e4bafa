#!/bin/bash
# inside.sh: in the fresh root: the ```sh blocks of the README in order, in one shell; then walk.md, with what is printed.
set -euo pipefail
cd /root/conex
export DEBIAN_FRONTEND=noninteractive
# root's, as a login has it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
blocks() { awk '/^```sh$/ {on = 1; next} /^```$/ {on = 0} on' "$1"; }
# What the README says one needs.
apt-get update -qq
apt-get install -y -qq --no-install-recommends cargo lld make git >/dev/null
blocks README.md >/tmp/readme.sh
[ -s /tmp/readme.sh ]
while IFS= read -r line; do
	echo "\$ $line"
	eval "$line" </dev/null
done </tmp/readme.sh
# The walk: its prose, its commands, and what they print; a command that fails is part of it and ends with a comment.
cd /root/conex
out=/root/first-hour.md
: >"$out"
on=
while IFS= read -r line; do
	case $line in
	'```sh') on=1 && echo '```' >>"$out" ;;
	'```') on= && echo '```' >>"$out" ;;
	*)
		echo "${on:+\$ }$line" >>"$out"
		[ -n "$on" ] || continue
		echo "\$ $line"
		code=0
		eval "$line" >/tmp/said 2>&1 </dev/null || code=$?
		cat /tmp/said
		sed -E 's/time="[^"]*"/time="…"/; s/-[0-9a-f]{6}\b/-1a2b3c/g; s#(/sys/fs/cgroup/[a-z_,]+)(/[^/ ",)]+)+/([^/ ",)]+)#\1/…/\3#g; s/[0-9]+\.[0-9] ms/… ms/' /tmp/said >>"$out"
		case $line in *"# fails") [ $code != 0 ] ;; *) [ $code = 0 ] ;; esac || { echo "exit status $code: $line"; exit 1; }
		;;
	esac
done </root/conex/tests/first-hour/walk.md
