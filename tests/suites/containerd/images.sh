#!/bin/bash
# Runs inside the root, in a network namespace of its own: makes the images that containerd's tests ask for, in a registry of this
# root that answers under the names in the source.
set -euo pipefail
here=$(dirname "$0") box=/root/box
source=/go/src/github.com/containerd/containerd/v2/integration
oci=/root/oci work=$(mktemp -d)
printf 'int pause(void); int main(void) { for (;;) pause(); }\n' | gcc -static -O1 -x c -o /root/pause -
box=/root/box
rm -rf $box /root/oci /var/lib/registry
mkdir -p $box/{bin,dev,etc,home,root,run,tmp,proc,sys,usr/bin,usr/sbin,var}
chmod 1777 $box/tmp
cp /usr/bin/busybox $box/bin/busybox
for name in $(busybox --list); do [ "$name" = busybox ] || ln -s busybox "$box/bin/$name"; done
# busybox's sleep of 2025 ends where CRIU interrupts its call.
rm $box/bin/sleep
gcc -static -O1 -x c -o $box/bin/sleep - <<-'C'
	#include <stdlib.h>
	#include <time.h>
	int main(int n, char **word) {
		double seconds = n > 1 ? strtod(word[1], 0) : 0;
		struct timespec left = {seconds > 1e9 ? 1000000000 : (time_t)seconds, 0};
		left.tv_nsec = seconds > 1e9 ? 0 : (seconds - left.tv_sec) * 1e9;
		while (nanosleep(&left, &left)) ;
		return 0;
	}
C
# The users that the tests name are Debian's, but for a group of root's.
cp /etc/passwd $box/etc/
sed 's/^uucp:.*/wheel:x:10:root/' /etc/group >$box/etc/group
# For a script of one line with bash's name, and a test of set-user-ID bits.
printf '#!/bin/sh\nexec sh "$@"\n' >$box/bin/bash
printf '#!/bin/sh\n' >$box/usr/bin/passwd
chmod 4755 $box/usr/bin/passwd
chmod 755 $box/bin/bash

new() { # NAME COMMAND…
	umoci new --image "$oci:$1"
	umoci config --image "$oci:$1" --config.env PATH=/bin:/usr/bin --architecture "$(dpkg --print-architecture)" --os linux
	umoci config --image "$oci:$1" "${@:2}"
}
layer() { # NAME DIRECTORY PLACE
	umoci insert --image "$oci:$1" "$2" "$3"
}
umoci init --layout "$oci"
new busybox --config.cmd sh
layer busybox "$box" /
mkdir -p "$work"/{copy,weird,colon,owned}
echo test_content >"$work/copy/test_file"
echo test_content >"$work/weird/weird_test_file"
echo test_content >"$work/colon/colon_prefixed_file"
new volume-copy-up --config.cmd sh --config.volume /test_dir --config.volume C:/weird_test_dir --config.volume /:colon_prefixed
layer volume-copy-up "$box" /
layer volume-copy-up "$work/copy" /test_dir
layer volume-copy-up "$work/weird" /C:/weird_test_dir
layer volume-copy-up "$work/colon" /:colon_prefixed
chown 65534:65534 "$work/owned"
new volume-ownership --config.cmd sh --config.volume /test_dir
layer volume-ownership "$box" /
layer volume-ownership "$work/owned" /test_dir
# It opens its standard error by its name, as nginx does.
new nginx --config.cmd sh --config.cmd -c --config.cmd 'exec 3>>/dev/stderr && echo start worker processes >&3 && exec sleep 1000'
layer nginx "$box" /
new pause --config.entrypoint /pause
layer pause /root/pause /pause
rm -rf "$work"

# Names and tags stand in the source: those of the list, and those of single tests.
grep -rhoE '"[a-z0-9.-]+\.(io|k8s\.io)/[a-z0-9/-]+:[a-zA-Z0-9.-]+"' $source --include='*.go' | tr -d '"' | grep -v ^docker.io | sort -u >/root/names
echo "$(grep -ho 'source *= "[^"]*"' $source/client/image_test.go | cut -d'"' -f2)/pause:3.6" >>/root/names
mapfile -t hosts < <(cut -d/ -f1 /root/names | sort -u)
grep -q "${hosts[0]}" /etc/hosts 2>/dev/null || printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
for host in "${hosts[@]}"; do echo "127.0.0.1 $host" >>/etc/hosts; done
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=registry -keyout /root/key.pem -out /usr/local/share/ca-certificates/registry.crt \
	-addext "subjectAltName=$(printf 'DNS:%s,' "${hosts[@]}" | sed 's/,$//')" 2>/dev/null
update-ca-certificates >/dev/null
"$here/registry.sh"
while read -r name; do
	image=busybox
	for known in volume-copy-up volume-ownership nginx pause; do [[ $name != */$known:* ]] || image=$known; done
	skopeo --insecure-policy copy -q "oci:$oci:$image" "docker://$name"
done </root/names
