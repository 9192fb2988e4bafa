#!/bin/bash
# boxes.sh RESULTS: distrobox and Toolbx over Podman: boxes that share the host's namespaces, home and devices. Runs in a Debian
# root and a network namespace of its own; /conex/.cache/box.tar is the root file system of the boxes.
set -u
cd "$(dirname "$0")"
. ./features.sh
export results=$1 limit=100 PODMAN_IGNORE_CGROUPSV1_WARNING=1 podman=podman SHELL=/bin/bash USER=root
bin=$(realpath ../../.cache/bin)
again() { podman rm -fa -t 0 >/dev/null 2>&1; }
mkdir -p /var/lib/containers /run/user/0
mount -t tmpfs tmpfs /var/lib/containers
mount --make-rshared /
# As systemd's tmpfiles make it: Toolbx looks for its loader there, on the host and in the box.
ln -s / /run/host
ip link set lo up
# Both take crun where it is, by its path: for conex, conex is there. In the column of runc it is crun itself, which refuses a host
# with v1 and v2 beside each other.
umount /sys/fs/cgroup/unified 2>/dev/null
# Toolbx gives its box the system's bus.
mkdir -p /run/dbus
socat UNIX-LISTEN:/run/dbus/system_bus_socket,fork /dev/null &
printf '[engine]\nruntime="crun"\ncgroup_manager="cgroupfs"\nevents_logger="file"\n[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n' >/tmp/conf
export CONTAINERS_CONF_OVERRIDE=/tmp/conf XDG_RUNTIME_DIR=/run/user/0
podman import --change LABEL=com.github.containers.toolbox=true ../../.cache/box.tar box >/dev/null 2>&1
for name in runc conex; do
	export name
	[ $name = runc ] || mount --bind "$bin/conex" /usr/bin/crun
	export engine="distrobox 1.8"
	feature "create, enter: user, home, host's network" 'root /root same=0' "distrobox create -Y -i localhost/box -n dd >/dev/null && distrobox enter dd -- sh -c 'id -un; echo \$HOME; [ \$(readlink /proc/self/ns/net) = '\$(readlink /proc/self/ns/net)' ] && echo same'"
	feature "stop, rm" '*=0' "distrobox stop -Y dd && distrobox rm -f -Y dd"
	export engine="Toolbx 0.0.99"
	feature "create, run: user, home, host's /run" 'root /root same=0' "toolbox -y create -i localhost/box tt >/dev/null && toolbox run -c tt sh -c 'id -un; echo \$HOME; [ \$(readlink /proc/self/ns/net) = '\$(readlink /proc/self/ns/net)' ] && echo same'"
	feature "run again, a status, rm" '*7=0' "toolbox run -c tt sh -c 'exit 7'; echo \$?; toolbox rm -f tt"
	again
done
