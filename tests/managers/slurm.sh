#!/bin/bash
# slurm.sh RESULTS: Slurm's srun --container on a cluster of one node. Runs in a Debian root and a network namespace of its own.
set -u
cd "$(dirname "$0")"
. ./features.sh
export engine="srun --container, Slurm 26.05" results=$1 limit=60
bin=$(realpath ../../.cache/bin)
# A name that leads to an address beyond the loopback.
ip link set lo up
ip link add d0 type bridge
ip addr add 10.9.9.9/24 dev d0
ip link set d0 up
hostname node1
printf '127.0.0.1 localhost\n10.9.9.9 node1\n' >/tmp/hosts
touch /etc/hosts
mount --bind /tmp/hosts /etc/hosts
mkdir -p /etc/slurm /var/lib/slurm /var/spool/slurmd /var/log/slurm /run/munge /etc/munge /var/lib/munge /var/log/munge
for dir in /etc/slurm /var/lib/slurm /var/spool/slurmd /var/log/slurm; do mount -t tmpfs tmpfs $dir; done
mkdir /var/lib/slurm/slurmctld
[ -e /etc/munge/munge.key ] || head -c 1024 /dev/urandom >/etc/munge/munge.key
chown munge: /etc/munge/munge.key /run/munge /etc/munge /var/lib/munge /var/log/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge
su munge -s /bin/sh -c munged
cat >/etc/slurm/slurm.conf <<-C
	ClusterName=c
	SlurmctldHost=node1
	SlurmUser=root
	SlurmdUser=root
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	StateSaveLocation=/var/lib/slurm/slurmctld
	SlurmdSpoolDir=/var/spool/slurmd
	ReturnToService=2
	NodeName=node1 CPUs=2 State=UNKNOWN
	PartitionName=p Nodes=ALL Default=YES State=UP
C
echo CgroupPlugin=disabled >/etc/slurm/cgroup.conf
mkdir -p /tmp/bundle
image_root /tmp/bundle/rootfs
(cd /tmp/bundle && runc spec && sed -i 's/"terminal": true/"terminal": false/; s/"readonly": true/"readonly": false/' config.json)
again() { scancel -u root; }
for name in runc conex; do
	case $name in runc) path=/usr/sbin/runc ;; *) path=$bin/conex ;; esac
	export name
	# As Slurm's documentation (containers) writes it for runc.
	cat >/etc/slurm/oci.conf <<-C
		EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
		RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
		RunTimeQuery="$path --root=/run/slurmoci state %n.%u.%j.%s.%t"
		RunTimeKill="$path --root=/run/slurmoci kill -a %n.%u.%j.%s.%t"
		RunTimeDelete="$path --root=/run/slurmoci delete --force %n.%u.%j.%s.%t"
		RunTimeRun="$path --root=/run/slurmoci run %n.%u.%j.%s.%t -b %b"
	C
	slurmctld
	slurmd
	for _ in $(seq 100); do sinfo -h -o %t | grep -q idle && break; sleep 0.1; done
	feature "two tasks, their environment and status" 'in 0 in 1 3=0' "srun -n2 --container=/tmp/bundle /bin/sh -c 'echo in \$SLURM_PROCID; exit 3' 2>/dev/null | sort; echo \${PIPESTATUS[0]}"
	feature "input, directory and user, a missing program" 'word / 0 1=0' "echo word | srun -n1 --container=/tmp/bundle /bin/cat; srun -n1 --container=/tmp/bundle /bin/sh -c 'pwd; id -u'; srun -n1 --container=/tmp/bundle /bin/nope 2>&1 | grep -c 'no such file'"
	feature "scancel" '0=0' "srun -n1 --container=/tmp/bundle /bin/sh -c 'trap \"exit 5\" TERM; echo started; while :; do sleep 0.1; done' >/tmp/out.$name 2>/dev/null & until_says started cat /tmp/out.$name >/dev/null; scancel -u root; wait; ls /run/slurmoci | wc -l"
	pkill -x slurmd
	pkill -x slurmctld
	for _ in $(seq 100); do pgrep -x 'slurmd|slurmctld' >/dev/null || break; sleep 0.1; done
done
pkill -x munged
