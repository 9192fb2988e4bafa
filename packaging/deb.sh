#!/bin/bash
# deb.sh OUT: packs what `make install` installs as a Debian package in OUT, and prints its name. The binaries are static,
# so one package serves every release.
set -euo pipefail
out=$1
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-1
# As Debian's tools name whoever builds; otherwise whoever made the last commit.
maintainer="${DEBFULLNAME:-conex maintainers} <${DEBEMAIL:-$(git log -1 --format=%ae)}>"
case ${TARGET:-} in
aarch64-*) arch=arm64 ;;
*) arch=$(dpkg --print-architecture) ;;
esac
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
make --no-print-directory install DESTDIR="$stage" PREFIX=/usr >&2
doc=$stage/usr/share/doc/conex
install -d -m 755 "$doc" "$stage/DEBIAN"
install -m 644 README.md docs/kubernetes.md docs/shim.md "$doc"
cat >"$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: conex

Files: *
Copyright: 2026 the conex authors
License: Apache-2.0
 On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.
END
gzip -9n <CHANGELOG.md >"$doc/changelog.gz"
gzip -9n >"$doc/changelog.Debian.gz" <<END
conex ($version) unstable; urgency=medium

  * Built from the sources; what changed is in changelog.gz.

 -- $maintainer  $(git log -1 --format=%aD)
END
install -d -m 755 "$stage/usr/share/lintian/overrides"
cat >"$stage/usr/share/lintian/overrides/conex" <<END
# A runtime must not load code from a library path that somebody else controls, and one package serves every release.
conex: statically-linked-binary *
END
chmod 644 "$stage/usr/share/lintian/overrides/conex"
find "$stage/usr/share/man" -type f -exec gzip -9n {} +
cat >"$stage/DEBIAN/control" <<END
Package: conex
Version: $version
Architecture: $arch
Maintainer: $maintainer
Section: admin
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Recommends: uidmap
Description: OCI container runtime with a containerd shim
 conex makes containers out of OCI bundles. It takes runc's command line, so
 that containerd, Docker and Podman can call it instead; the package has the
 runtime (conex), its commands for people (lint, doctor, setup) and its shim
 for containerd (containerd-shim-conex-v2).
 .
 "conex setup docker" (or containerd, podman, kubernetes) prints what the
 configuration of that engine needs.
END
(cd "$stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
mkdir -p "$out"
deb=$out/conex_${version}_$arch.deb
# One package of each architecture is there.
rm -f "$out"/conex_*_"$arch".deb
dpkg-deb --root-owner-group --build "$stage" "$deb" >&2
echo "$deb"
