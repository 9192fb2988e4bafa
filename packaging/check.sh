#!/bin/bash
# check.sh DEB CACHE: installs the package into fresh roots of Debian bookworm and forky, runs a container from it, and
# removes it again; nothing may be left.
set -euo pipefail
mkdir -p "$2"
deb=$(realpath "$1") cache=$(realpath "$2")
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 -E '/debian/?$')
if command -v lintian >/dev/null; then
	lintian --fail-on error --allow-root "$deb" || exit 1
else
	echo "deb: lintian is not installed, so it was not asked"
fi
for suite in bookworm forky; do
	root=$cache/deb-$suite
	rm -rf "$root"
	mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include=busybox-static \
		"$suite" "$root" "deb $site $suite main"
	cp "$deb" "$root/conex.deb"
	cat >"$root/check" <<-'END'
		set -euo pipefail
		list() { find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run -o -path /conex -o -path '/var/*' \) -prune -o -print | sort; }
		list >/tmp/before
		dpkg -i /conex.deb
		conex --version
		containerd-shim-conex-v2 -v
		conex setup docker >/dev/null
		conex lint --json-schema >/dev/null
		mkdir -p /tmp/b/rootfs/bin && cp /bin/busybox /tmp/b/rootfs/bin/sh && cd /tmp/b
		conex spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sh", "-c", "echo from the container"/' config.json
		[ "$(conex run deb-check)" = "from the container" ]
		dpkg -P conex
		list >/tmp/after
		diff /tmp/before /tmp/after
	END
	"$(dirname "$0")/../tests/forky/enter.sh" "$root" bash /check >"$cache/deb-$suite.log" 2>&1 || { tail -n 20 "$cache/deb-$suite.log"; exit 1; }
	echo "deb: installed, ran and removed on $suite"
	rm -rf "$root"
done
