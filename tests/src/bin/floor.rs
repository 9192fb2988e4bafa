//! The kernel floor: what `conex run` of a standard bundle must ask of the kernel at least, and nothing else.
//!
//! `floor <rootfs> <program>`: one clone3 with the namespaces of `conex spec`, a cgroup in every hierarchy with the
//! device rules, the standard mounts, nodes, masks and read-only paths, pivot_root, the process's limit, capabilities and
//! keyring, the loopback interface, execve, wait, removal. No JSON,
//! no checks, no errors beyond a panic, no state, no handshake beyond one byte. `FLOOR_NAMESPACE` names the file of a mount
//! namespace of nothing to be born in, with the root file system and the cgroups as trees: the best way there is.

use conex::plan::device_rules::{PlannedRule, Rules};
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
    if args[1] == "exec" {
        return exec(&args[2], &args[3]);
    }
    let (rootfs, program) = (PathBuf::from(&args[1]), args[2].clone());
    let groups = groups();
    let unified = groups.iter().find(|g| g.join("cgroup.kill").exists());
    let unified_fd = unified.map(|u| open(u, OFlag::O_PATH, Mode::empty()).unwrap());
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let own = open("/proc/self/ns/mnt", OFlag::O_RDONLY, Mode::empty()).unwrap();
    let trees = Trees::open(&rootfs, &groups);
    if let Some(file) = std::env::var_os("FLOOR_NAMESPACE") {
        let empty = open(Path::new(&file), OFlag::O_RDONLY, Mode::empty()).unwrap();
        conex_sys::proc::setns(empty.as_fd(), libc::CLONE_NEWNS).unwrap();
    }
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    match clone3(flags as u64, unified_fd.as_ref().map(|f| f.as_fd())).unwrap() {
        Forked::Child => {
            child(trees, &reader);
            let path = std::ffi::CString::new(program).unwrap();
            let _ = nix::unistd::execve(&path, std::slice::from_ref(&path), &[c"PATH=/bin"]);
            exit_now(127);
        }
        Forked::Parent { pidfd, .. } => {
            conex_sys::proc::setns(own.as_fd(), libc::CLONE_NEWNS).unwrap();
            drop(trees);
            if let Some(devices) = groups.iter().find(|g| g.join("devices.deny").exists()) {
                for (file, line) in DEVICES {
                    std::fs::write(devices.join(file), line).unwrap();
                }
            } else if let Some(unified) = unified {
                use conex_sys::bpf;
                let program = bpf::load_device_program(&device_rules().program()).unwrap();
                let dir = open(unified, OFlag::O_RDONLY, Mode::empty()).unwrap();
                bpf::attach(dir.as_fd(), program.as_fd(), None).unwrap();
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

/// A cgroup of this program's in every hierarchy.
fn groups() -> Vec<PathBuf> {
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
    groups
}

/// `floor exec <pid> <program>`: into the namespaces of a container's init at once, a clone that is born in its v2 cgroup and
/// goes into the others by itself, execve, wait.
fn exec(init: &str, program: &str) {
    let groups = std::fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap();
    let dir = |controllers: &str, path: &str| {
        let name = if controllers.is_empty() { "unified" } else { controllers };
        let name = name.strip_prefix("name=").unwrap_or(name);
        let base = Path::new("/sys/fs/cgroup");
        let own = base.join(name);
        let own = if own.is_dir() { own } else { base.to_path_buf() };
        own.join(path.trim_start_matches('/'))
    };
    let (mut unified, mut tasks) = (None, Vec::new());
    for line in groups.lines() {
        let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        let dir = dir(controllers, path);
        if controllers.is_empty() {
            let there = dir.join("cgroup.procs").exists();
            unified = there.then(|| open(&dir, OFlag::O_PATH, Mode::empty()).unwrap());
        } else {
            tasks.push(open(&dir.join("tasks"), OFlag::O_WRONLY, Mode::empty()).unwrap());
        }
    }
    let pidfd = conex_sys::proc::pidfd_open(nix::unistd::Pid::from_raw(init.parse().unwrap()));
    let all = libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    conex_sys::proc::setns(pidfd.unwrap().as_fd(), all).unwrap();
    match clone3(0, unified.as_ref().map(|f| f.as_fd())).unwrap() {
        Forked::Child => {
            tasks.iter().for_each(|t| assert_eq!(nix::unistd::write(t, b"0"), Ok(1)));
            credentials();
            let path = std::ffi::CString::new(program).unwrap();
            let _ = nix::unistd::execve(&path, std::slice::from_ref(&path), &[c"PATH=/bin"]);
            exit_now(127);
        }
        Forked::Parent { pidfd, .. } => {
            let _ = conex_sys::proc::wait_pidfd(pidfd.as_fd(), false);
        }
    }
}

/// What of the host's mounts goes into the container, opened before its mount namespace is entered.
struct Trees {
    root: OwnedFd,
    null: OwnedFd,
    /// Of v1: the directory's name below the mount, its tree, its `tasks` file.
    groups: Vec<(String, OwnedFd, OwnedFd)>,
}

impl Trees {
    fn open(rootfs: &Path, groups: &[PathBuf]) -> Trees {
        let clone = |path: &Path, recursive| {
            open_tree_clone(nix::fcntl::AT_FDCWD, path, recursive, true).unwrap()
        };
        let slave = MountAttr { propagation: libc::MS_SLAVE as u64, ..MountAttr::default() };
        let root = clone(rootfs, true);
        mount_setattr(root.as_fd(), true, &slave).unwrap();
        let v1 = groups.iter().filter(|g| !g.join("cgroup.kill").exists());
        let group = |g: &PathBuf| {
            let name = g.parent().unwrap().file_name().unwrap().to_str().unwrap().to_string();
            let tasks = open(&g.join("tasks"), OFlag::O_WRONLY, Mode::empty()).unwrap();
            (name, clone(g, false), tasks)
        };
        Trees { root, null: clone(Path::new("/dev/null"), false), groups: v1.map(group).collect() }
    }
}

// One call after the other, as they are measured.
#[allow(clippy::too_many_lines)]
fn child(trees: Trees, go: &OwnedFd) {
    let none = None::<&str>;
    let Trees { root, null, groups } = trees;
    let top = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    move_mount(root.as_fd(), top.as_fd()).unwrap();
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
    for (name, tree, _) in &groups {
        dir(&cgroup, name);
        let at = openat(&cgroup, name.as_str(), OFlag::O_PATH, Mode::empty()).unwrap();
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
    protect(root.as_fd(), null);
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
    groups.iter().for_each(|(_, _, t)| assert_eq!(nix::unistd::write(t, b"0"), Ok(1)));
    conex_sys::proc::unshare(libc::CLONE_NEWCGROUP).unwrap();
    conex::acts::netlink::up_loopback().unwrap();
    credentials();
}

/// What the document of `conex spec` asks for the process, and the keyring that every container has.
fn credentials() {
    use conex_sys::proc;
    let _ = nix::unistd::setsid();
    let serial = proc::join_session_keyring("floor").unwrap();
    let _ = proc::keyring_allow_user_search(serial);
    // All but AUDIT_WRITE, KILL and NET_BIND_SERVICE; a number that the kernel lacks is its end.
    (0..64)
        .filter(|n| ![29, 5, 10].contains(n))
        .take_while(|n| proc::bounding_drop(*n).is_ok())
        .count();
    proc::setgroups(&[]).unwrap();
    proc::setresgid(0).unwrap();
    proc::setresuid(0).unwrap();
    proc::set_no_new_privs().unwrap();
    proc::set_rlimit(nix::unistd::Pid::from_raw(0), libc::RLIMIT_NOFILE, 1024, 1024).unwrap();
}

/// The rules of [`DEVICES`].
fn device_rules() -> Rules {
    let rule = |(file, line): &(&str, &str)| {
        let mut words = line.split([' ', ':']);
        let kind = words.next()?.as_bytes()[0];
        let (major, minor) = (words.next()?.parse().ok(), words.next()?.parse().ok());
        let access = if words.next()? == "m" { 1 } else { 7 };
        let allow = file.ends_with("allow");
        Some(PlannedRule { allow, kind, major, minor, access, index: None })
    };
    Rules { default_allow: false, list: DEVICES.iter().filter_map(rule).collect() }
}

fn protect(root: BorrowedFd, null: OwnedFd) {
    let mut attached = false;
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
            (_, false) if !attached => {
                attached = true;
                move_mount(null.as_fd(), target.as_fd()).unwrap();
                continue;
            }
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
