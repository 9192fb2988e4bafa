//! A mount namespace of nothing that is made once and kept by a bind of its file, as `unshare --mount=FILE` keeps one.

use crate::error::{Context, Result};
use conex_sys::clone::{clone3, exit_now, Forked};
use conex_sys::mount::{fscreate, fsmount, fsopen, move_mount};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// A small file system of its own, private so that the file is not propagated: the kernel refuses that. Of root's alone, as
/// all of the state is, and the same for every state root.
const DIR: &str = "/run/conex/.empty";
const FILE: &str = "mnt";

/// The one that is there.
pub(super) fn open() -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = nix::fcntl::open(&Path::new(DIR).join(FILE), flags, Mode::empty()).ok()?;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let is_namespace =
        nix::sys::statfs::fstatfs(&fd).is_ok_and(|s| s.filesystem_type().0 as i64 == NSFS_MAGIC);
    is_namespace.then_some(fd)
}

/// Makes it, if nobody else does. Of many at once one makes it, and the others wait for that one.
pub(super) fn make() -> Option<OwnedFd> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(DIR).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(DIR, flags, Mode::empty()).ok()?;
    let lock = nix::fcntl::Flock::lock(dir, nix::fcntl::FlockArg::LockExclusive).ok()?;
    let made = open().or_else(|| on_every_cpu(keep).and_then(|()| open()));
    drop(lock);
    made
}

/// Tries it on one CPU after the other, as long as it is refused for that. The kernel lets nobody bind a namespace whose
/// number is below that of his own (EINVAL of mnt_ns_loop, fs/namespace.c), and each CPU has numbers of its own to give away
/// (Linux 6.18): on the one that has made the own namespace they are higher.
fn on_every_cpu(attempt: impl Fn() -> Result<()>) -> Option<()> {
    use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
    let this = nix::unistd::Pid::from_raw(0);
    let refused = |made: &Result<()>| made.as_ref().is_err_and(|e| e.errno == Some(Errno::EINVAL));
    let mut made = attempt();
    let Some(all) = sched_getaffinity(this).ok().filter(|_| refused(&made)) else {
        return made.ok();
    };
    for cpu in (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu) == Ok(true)) {
        let mut one = CpuSet::new();
        if one.set(cpu).and_then(|()| sched_setaffinity(this, &one)).is_ok() {
            made = attempt();
        }
        if !refused(&made) {
            break;
        }
    }
    let _ = sched_setaffinity(this, &all);
    made.ok()
}

fn keep() -> Result<()> {
    let (told, teller) = nix::unistd::pipe2(OFlag::O_CLOEXEC).call(|| "pipe2")?;
    let (ends, end) = nix::unistd::pipe2(OFlag::O_CLOEXEC).call(|| "pipe2")?;
    match clone3(libc::CLONE_NEWNS as u64, None).call(|| "clone3(CLONE_NEWNS)")? {
        Forked::Child => {
            drop(end);
            if empty().is_ok() && nix::unistd::write(&teller, b"x").is_ok() {
                // Until the parent has bound it, or is gone.
                let _ = nix::unistd::read(&ends, &mut [0]);
            }
            exit_now(0);
        }
        Forked::Parent { pid, pidfd } => {
            drop((teller, ends));
            let ready = nix::unistd::read(&told, &mut [0]) == Ok(1);
            let bound = if ready { bind(pid.as_raw()) } else { Ok(()) };
            drop(end);
            let _ = conex_sys::proc::wait_pidfd(pidfd.as_fd(), false);
            bound
        }
    }
}

/// Leaves the calling process, in a copy of the mount namespace, with an empty tmpfs.
fn empty() -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).call(|| "mount(/)")?;
    let top = tmpfs()?;
    // The copy's own: a descriptor that was opened before the clone is of the namespace that was copied.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(DIR, flags, Mode::empty()).call(|| format!("open({DIR})"))?;
    move_mount(top.as_fd(), dir.as_fd()).call(|| format!("move_mount(tmpfs, {DIR})"))?;
    nix::unistd::fchdir(&top).call(|| "fchdir(tmpfs)")?;
    nix::unistd::pivot_root(".", ".").call(|| "pivot_root(tmpfs)")?;
    umount2(".", MntFlags::MNT_DETACH).call(|| "umount2(old root, MNT_DETACH)")
}

fn tmpfs() -> Result<OwnedFd> {
    let fs = fsopen("tmpfs").call(|| "fsopen(tmpfs)")?;
    fscreate(fs.as_fd()).call(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    fsmount(fs.as_fd(), 0).call(|| "fsmount(tmpfs)")
}

fn bind(pid: i32) -> Result<()> {
    let none = None::<&str>;
    // A second one, where an earlier one lost its file, would only cover it.
    let _ = umount2(DIR, MntFlags::MNT_DETACH);
    mount(Some("tmpfs"), DIR, Some("tmpfs"), MsFlags::MS_NOEXEC, Some("mode=0700,size=4k"))
        .call(|| format!("mount(tmpfs, {DIR})"))?;
    let bound = (|| {
        mount(none, DIR, none, MsFlags::MS_PRIVATE, none).call(|| "mount(MS_PRIVATE)")?;
        let file = Path::new(DIR).join(FILE);
        std::fs::write(&file, "").call(|| format!("write({})", file.display()))?;
        let from = format!("/proc/{pid}/ns/mnt");
        mount(Some(from.as_str()), &file, none, MsFlags::MS_BIND, none)
            .call(|| format!("mount({from}, {}, MS_BIND)", file.display()))?;
        // In a container that gets the whole of / the file would be refused (mount_namespaces(7): a namespace may not hold itself).
        mount(none, DIR, none, MsFlags::MS_UNBINDABLE, none).call(|| "mount(MS_UNBINDABLE)")
    })();
    if bound.is_err() {
        let _ = umount2(DIR, MntFlags::MNT_DETACH);
    }
    bound
}
