//! A mount namespace with nothing of the host's in it, to be born in ([`conex_plan::detached`]).
//!
//! Every kernel with devtmpfs has one, which nobody has to make, pin or clean up: that of the thread `kdevtmpfs`
//! (drivers/base/devtmpfs.c), which holds one mount. A process that is cloned there with CLONE_NEWNS gets a copy of that
//! one mount, whatever the host has. It is not to be seen from inside a PID namespace (a node that is a container, Docker in
//! Docker): there one is made and kept ([`pinned`]). Where neither can be had or entered, the container begins with a copy
//! of the host's mounts, as it does with every other runtime.

mod pinned;

use super::home::Home;
use crate::acts::tree;
use crate::error::{Context, Result};
use crate::plan::detached::needs_procfs;
use crate::plan::Plan;
use conex_sys::mount::{fsconfig, fscreate, fsmount, fsopen, move_mount};
use conex_sys::proc;
use nix::fcntl::{openat, OFlag};
use nix::sys::stat::Mode;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const NAME: &str = "kdevtmpfs";

/// The namespace, and what is put into it for a container with a user namespace, or with labels of SELinux.
pub struct Empty {
    namespace: OwnedFd,
    /// Trees of the host's procfs, sysfs and devices, and where they go; none for most.
    views: Vec<(&'static str, tree::Tree)>,
}

/// The namespace; `None` if this host has none or does not let it be entered. `root` holds what an earlier call has found
/// out.
pub fn find(root: Option<BorrowedFd>, plan: &Plan) -> Option<Empty> {
    if !tree::has_setattr() {
        return None;
    }
    let namespace = root
        .and_then(known)
        .and_then(of)
        .or_else(pinned::open)
        .or_else(|| root.and_then(search).and_then(of))
        .or_else(pinned::make)?;
    Some(Empty { namespace, views: views(plan)? })
}

/// In a user namespace the kernel lets nobody mount a procfs or sysfs who does not see one in full already
/// (mount_too_revealing, fs/namespace.c), and devices are bound from the host. A sysfs of a network that is not that user
/// namespace's own cannot be mounted at all: then the host's is bound, with all that is mounted there.
fn views(plan: &Plan) -> Option<Vec<(&'static str, tree::Tree)>> {
    let ns = &plan.namespaces;
    let whole_sys = !ns.creates(libc::CLONE_NEWNET);
    let wanted = [("proc", false), ("sys", whole_sys), ("dev", false)];
    let wanted = match ns.private(libc::CLONE_NEWUSER) {
        true => wanted.as_slice(),
        false if needs_procfs(&plan.mounts) => &wanted[..1],
        false => &[],
    };
    let open = |(name, recursive): &(&'static str, bool)| {
        let tree = tree::bind(tree::cwd(), &Path::new("/").join(name), *recursive).ok()?;
        Some((*name, tree))
    };
    wanted.iter().map(open).collect()
}

impl Empty {
    pub(super) fn join(&self) -> Result<()> {
        proc::setns(self.namespace.as_fd(), libc::CLONE_NEWNS)
            .call(|| "setns(a mount namespace of nothing, CLONE_NEWNS)")
    }

    /// Enters it. With a user namespace in a copy of its own, which has a procfs, a sysfs and the devices.
    pub(super) fn enter(self, home: &mut Home) -> Result<()> {
        home.remember(libc::CLONE_NEWNS)?;
        self.join()?;
        if self.views.is_empty() {
            return Ok(());
        }
        proc::unshare(libc::CLONE_NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
        let top = cover()?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for (name, tree) in self.views {
            nix::sys::stat::mkdirat(&top, name, Mode::from_bits_truncate(0o755))
                .call(|| format!("mkdirat(tmpfs, {name})"))?;
            let at = openat(&top, name, flags, Mode::empty()).call(|| format!("openat({name})"))?;
            tree.attach(at.as_fd())?;
        }
        Ok(())
    }
}

/// Puts a tmpfs over everything in the mount namespace that this process is in, which must be its own, and enters it.
pub(super) fn cover() -> Result<OwnedFd> {
    let fs = fsopen("tmpfs").call(|| "fsopen(tmpfs)")?;
    fsconfig(fs.as_fd(), "mode", Some(b"0755")).call(|| "fsconfig(tmpfs, mode)")?;
    fscreate(fs.as_fd()).call(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    let top = fsmount(fs.as_fd(), 0).call(|| "fsmount(tmpfs)")?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open("/", flags, Mode::empty()).call(|| "open(/)")?;
    move_mount(top.as_fd(), root.as_fd()).call(|| "move_mount(tmpfs, /)")?;
    // Not the root that it covers: a process that is chrooted may make no user namespace (clone(2), EPERM).
    nix::unistd::fchdir(&top).call(|| "fchdir(tmpfs)")?;
    nix::unistd::chroot(".").call(|| "chroot(tmpfs)")?;
    Ok(top)
}

fn of(pid: i32) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::open(format!("/proc/{pid}/ns/mnt").as_str(), flags, Mode::empty()).ok()
}

/// The thread that an earlier call has found, if it is still that one. A kernel's thread lives as long as the kernel; the
/// state root can outlive it.
fn known(root: BorrowedFd) -> Option<i32> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(root, ".cache/kdevtmpfs", flags, Mode::empty()).ok()?;
    let mut text = [0u8; 16];
    let n = nix::unistd::read(&fd, &mut text).ok()?;
    let pid = std::str::from_utf8(&text[..n]).ok()?.trim().parse().ok()?;
    is_it(pid).then_some(pid)
}

/// proc_pid_stat(5): `pid (name) state ppid pgrp session tty tpgid flags …`. A name is anybody's to choose, the flag is not.
fn is_it(pid: i32) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let Ok(text) = crate::acts::read_text(format!("/proc/{pid}/stat")) else { return false };
    let Some((name, rest)) = text.split_once('(').and_then(|(_, t)| t.rsplit_once(')')) else {
        return false;
    };
    let flags = rest.split_whitespace().nth(6).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    name == NAME && flags & PF_KTHREAD != 0
}

/// Looks for it among the children of kthreadd, which is the second process of every host (proc_pid_children(5)).
fn search(root: BorrowedFd) -> Option<i32> {
    let text = std::fs::read_to_string("/proc/2/task/2/children").ok()?;
    let pid = text.split_whitespace().filter_map(|w| w.parse().ok()).find(|pid| is_it(*pid))?;
    let _ = nix::sys::stat::mkdirat(root, ".cache", Mode::S_IRWXU);
    // A reader that finds half a number finds another process, which is not believed.
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if let Ok(fd) = openat(root, ".cache/kdevtmpfs", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        let _ = std::fs::File::from(fd).write_all(pid.to_string().as_bytes());
    }
    Some(pid)
}
