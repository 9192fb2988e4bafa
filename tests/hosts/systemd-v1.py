"""systemd-v1.py TOP: the config.json of a container that runs systemd on v1 controllers, with all that it may have."""
import json
import re
import sys

top = sys.argv[1]
# What this process may do itself: a virtual machine may lack CAP_SYS_RESOURCE.
bounding = int(re.search(r"CapBnd:\s*(\w+)", open("/proc/self/status").read())[1], 16)
NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
caps = ["CAP_" + name for bit, name in enumerate(NAMES) if bounding >> bit & 1]
# systemd would mount the controllers that the host does not use, for the whole machine: it finds no place to.
START = (
    "mount -o remount,bind,ro /sys/fs/cgroup; "
    "exec /lib/systemd/systemd --system --show-status=false --log-level=warning --log-target=console"
)


def mount(destination, kind, *options):
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


json.dump(
    {
        "ociVersion": "1.2.0",
        "hostname": "systemd-v1",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": ["/bin/sh", "-c", START],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=conex"],
            "capabilities": {kind: caps for kind in ("bounding", "effective", "permitted")},
        },
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755"),
            mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            mount("/dev/shm", "tmpfs", "nosuid", "nodev", "mode=1777"),
            mount("/dev/mqueue", "mqueue"),
            mount("/sys", "sysfs"),
            mount("/sys/fs/cgroup", "cgroup"),
            mount("/run", "tmpfs", "mode=755"),
            mount("/tmp", "tmpfs", "mode=1777"),
            {"destination": top, "type": "bind", "source": top, "options": ["rbind"]},
        ],
        "linux": {
            "cgroupsPath": "/conex-test/systemd-v1",
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
            # systemd as root of the first user namespace raises limits of the whole machine.
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network", "cgroup")],
        },
    },
    sys.stdout,
)
