//! The kernel floor: what `conex run` of a standard bundle must ask of the kernel at least, and nothing else.
//!
//! `floor <rootfs> <program>`: one clone3 with the namespaces of `conex spec`, a cgroup in every hierarchy with the
//! device rules, the standard mounts, nodes, masks and read-only paths, pivot_root, execve, wait, removal. No JSON,
//! no checks, no errors beyond a panic, no state, no handshake beyond one byte.

use conex_sys::clone::{clone3, exit_now, Forked};
use conex_sys::mount::*;
use nix::fcntl::{open, openat, OFlag};
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const DEVICES: [(&str, &str); 12] = [
    ("devices.deny", "a"),
    ("devices.allow", "c *:* m"),
    ("devices.allow", "b *:* m"),
    ("devices.allow", "c 1:3 rwm"),
    ("devices.allow", "c 1:8 rwm"),
    ("devices.allow", "c 1:7 rwm"),
    ("devices.allow", "c 5:0 rwm"),
    ("devices.allow", "c 1:5 rwm"),
    ("devices.allow", "c 1:9 rwm"),
    ("devices.allow", "c 136:* rwm"),
    ("devices.allow", "c 5:2 rwm"),
    ("devices.allow", "c 10:200 rwm"),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (rootfs, program) = (PathBuf::from(&args[1]), args[2].clone());
    let hierarchies: Vec<PathBuf> = std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("cgroup.procs").exists())
        .collect();
    let name = format!("floor-{}", std::process::id());
    let groups: Vec<PathBuf> = hierarchies.iter().map(|h| h.join(&name)).collect();
    for (group, hierarchy) in groups.iter().zip(&hierarchies) {
        std::fs::create_dir(group).unwrap();
        if hierarchy.ends_with("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                std::fs::write(group.join(file), std::fs::read(hierarchy.join(file)).unwrap())
                    .unwrap();
            }
        }
    }
    let unified = groups.iter().find(|g| g.join("cgroup.kill").exists());
    let unified_fd = unified.map(|u| open(u, OFlag::O_PATH, Mode::empty()).unwrap());
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    match clone3(flags as u64, unified_fd.as_ref().map(|f| f.as_fd())).unwrap() {
        Forked::Child => {
            child(&rootfs, &groups, &reader);
            let path = std::ffi::CString::new(program).unwrap();
            let _ = nix::unistd::execve(&path, std::slice::from_ref(&path), &[c"PATH=/bin"]);
            exit_now(127);
        }
        Forked::Parent { pidfd, .. } => {
            if let Some(devices) = groups.iter().find(|g| g.join("devices.deny").exists()) {
                for (file, line) in DEVICES {
                    std::fs::write(devices.join(file), line).unwrap();
                }
            }
            nix::unistd::write(&writer, b"x").unwrap();
            let _ = conex_sys::proc::wait_pidfd(pidfd.as_fd(), false);
        }
    }
    for group in &groups {
        while std::fs::remove_dir(group).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

fn file_system(
    root: BorrowedFd,
    kind: &str,
    at: &str,
    attrs: u64,
    data: &[(&str, &str)],
) -> OwnedFd {
    let fs = fsopen(kind).unwrap();
    for (key, value) in data {
        fsconfig(fs.as_fd(), key, if value.is_empty() { None } else { Some(value.as_bytes()) })
            .unwrap();
    }
    fscreate(fs.as_fd()).unwrap();
    let fd = fsmount(fs.as_fd(), attrs).unwrap();
    let _ = std::fs::create_dir(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())).join(at));
    let target = openat(root, at, OFlag::O_PATH, Mode::empty()).unwrap();
    move_mount(fd.as_fd(), target.as_fd()).unwrap();
    fd
}

// One call after the other, as they are measured.
#[allow(clippy::too_many_lines)]
fn child(rootfs: &Path, groups: &[PathBuf], go: &OwnedFd) {
    let none = None::<&str>;
    let v1 = groups.iter().filter(|g| !g.join("cgroup.kill").exists());
    let tasks: Vec<OwnedFd> =
        v1.map(|g| open(&g.join("tasks"), OFlag::O_WRONLY, Mode::empty()).unwrap()).collect();
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).unwrap();
    let target = open(rootfs, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    let root = open_tree_clone(target.as_fd(), Path::new(""), true, true).unwrap();
    move_mount(root.as_fd(), target.as_fd()).unwrap();
    let safe = ATTR_NOSUID | ATTR_NOEXEC | ATTR_NODEV;
    let dir = |fd: &OwnedFd, name: &str| {
        nix::sys::stat::mkdirat(fd, name, Mode::from_bits_truncate(0o755)).unwrap_or(())
    };
    file_system(root.as_fd(), "proc", "proc", 0, &[]);
    let dev = file_system(
        root.as_fd(),
        "tmpfs",
        "dev",
        ATTR_NOSUID | ATTR_STRICTATIME,
        &[("mode", "755"), ("size", "65536k")],
    );
    ["pts", "shm", "mqueue"].iter().for_each(|n| dir(&dev, n));
    file_system(
        dev.as_fd(),
        "devpts",
        "pts",
        ATTR_NOSUID | ATTR_NOEXEC,
        &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
    );
    file_system(dev.as_fd(), "tmpfs", "shm", safe, &[("mode", "1777"), ("size", "65536k")]);
    file_system(dev.as_fd(), "mqueue", "mqueue", safe, &[]);
    file_system(root.as_fd(), "sysfs", "sys", safe | ATTR_RDONLY, &[]);
    let cgroup = file_system(root.as_fd(), "tmpfs", "sys/fs/cgroup", safe, &[("mode", "755")]);
    for group in groups.iter().filter(|g| !g.join("cgroup.kill").exists()) {
        let name = group.parent().unwrap().file_name().unwrap().to_str().unwrap();
        dir(&cgroup, name);
        let at = openat(&cgroup, name, OFlag::O_PATH, Mode::empty()).unwrap();
        let tree = open_tree_clone(nix::fcntl::AT_FDCWD, group, false, true).unwrap();
        mount_setattr(
            tree.as_fd(),
            false,
            &MountAttr { set: safe | ATTR_RDONLY, ..MountAttr::default() },
        )
        .unwrap();
        move_mount(tree.as_fd(), at.as_fd()).unwrap();
    }
    for (name, minor, major) in [
        ("null", 3, 1),
        ("zero", 5, 1),
        ("full", 7, 1),
        ("random", 8, 1),
        ("urandom", 9, 1),
        ("tty", 0, 5),
    ] {
        conex_sys::fd::mknodat(
            dev.as_fd(),
            Path::new(name),
            libc::S_IFCHR | 0o666,
            libc::makedev(major, minor),
        )
        .unwrap();
    }
    for (link, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        nix::unistd::symlinkat(to, &dev, link).unwrap();
    }
    protect(root.as_fd());
    let old = open("/", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    nix::unistd::fchdir(&root).unwrap();
    nix::unistd::pivot_root(".", ".").unwrap();
    nix::unistd::fchdir(&old).unwrap();
    mount(none, ".", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).unwrap();
    umount2(".", MntFlags::MNT_DETACH).unwrap();
    nix::unistd::chdir("/").unwrap();
    mount_setattr(root.as_fd(), false, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() })
        .unwrap();
    nix::unistd::sethostname("floor").unwrap();
    nix::unistd::read(go, &mut [0u8; 1]).unwrap();
    // By itself: moving another process waits for RCU.
    tasks.iter().for_each(|t| assert_eq!(nix::unistd::write(t, b"0"), Ok(1)));
    conex_sys::proc::unshare(libc::CLONE_NEWCGROUP).unwrap();
    conex_sys::proc::setresuid(0).unwrap();
}

fn protect(root: BorrowedFd) {
    let null = open("/dev/null", OFlag::O_PATH, Mode::empty()).unwrap();
    for path in ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"] {
        let Ok(target) = openat(root, path, OFlag::O_PATH, Mode::empty()) else {
            continue;
        };
        let tree = open_tree_clone(target.as_fd(), Path::new(""), false, true).unwrap();
        mount_setattr(tree.as_fd(), false, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() })
            .unwrap();
        move_mount(tree.as_fd(), target.as_fd()).unwrap();
    }
    let mut empty: Option<OwnedFd> = None;
    for path in [
        "proc/acpi",
        "proc/asound",
        "proc/kcore",
        "proc/keys",
        "proc/latency_stats",
        "proc/timer_list",
        "proc/timer_stats",
        "proc/sched_debug",
        "sys/firmware",
        "proc/scsi",
    ] {
        let Ok(target) = openat(root, path, OFlag::O_PATH, Mode::empty()) else {
            continue;
        };
        let is_dir =
            nix::sys::stat::fstat(&target).unwrap().st_mode & libc::S_IFMT == libc::S_IFDIR;
        let tree = match (&empty, is_dir) {
            (_, false) => open_tree_clone(null.as_fd(), Path::new(""), false, true).unwrap(),
            (Some(fd), true) => open_tree_clone(fd.as_fd(), Path::new(""), false, true).unwrap(),
            (None, true) => {
                let fs = fsopen("tmpfs").unwrap();
                fscreate(fs.as_fd()).unwrap();
                fsmount(fs.as_fd(), ATTR_RDONLY).unwrap()
            }
        };
        move_mount(tree.as_fd(), target.as_fd()).unwrap();
        if is_dir && empty.is_none() {
            empty = Some(tree);
        }
    }
}
