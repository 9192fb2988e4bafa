//! Mounts as a user namespace sees those of the host: with their flags locked.
//!
//! What is copied into the mount namespace of another user namespace keeps the flags that it has on the host (read-only,
//! nodev, nosuid, noexec), and what is mounted below it stays mounted (mount_namespaces(7), "Restrictions on mount
//! namespaces"). A detached tree that the host's side has opened knows nothing of this: root of the container, with
//! CAP_SYS_ADMIN there, could make it writable again. The kernel has no call that locks a tree. So the trees go through such a
//! copy: a process attaches them in a mount namespace of its own, enters a user namespace with a copy of that, and opens
//! them there.

use super::empty::{self, Empty};
use crate::acts::tree::{self, Tree};
use crate::error::{Context, Result};
use crate::sync::{pair, Channel, Message, MAX_FDS};
use conex_sys::clone::{clone3, exit_now, Forked};
use conex_sys::proc;
use nix::fcntl::{openat, OFlag};
use nix::mount::MsFlags;
use nix::sys::stat::{fstat, mkdirat, Mode, SFlag};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The same trees, locked, in the same order. `empty` spares a copy of the host's mounts.
///
/// # Errors
/// A namespace cannot be made (its limit below /proc/sys/user is reached), or a tree not be attached: the call.
pub(super) fn lock(trees: &[BorrowedFd], empty: Option<&Empty>) -> Result<Vec<OwnedFd>> {
    if trees.is_empty() {
        return Ok(Vec::new());
    }
    let (ours, theirs) = pair()?;
    match clone3(0, None).call(|| "clone3")? {
        Forked::Child => {
            drop(ours);
            let sent = through(trees, empty).and_then(|locked| send(&theirs, locked));
            if let Err(e) = sent {
                let _ = theirs.send(&Message::Failed(e));
            }
            exit_now(0);
        }
        Forked::Parent { pidfd, .. } => {
            drop(theirs);
            let locked = receive(&ours, trees.len());
            let _ = proc::wait_pidfd(pidfd.as_fd(), false);
            locked
        }
    }
}

fn send(channel: &Channel, trees: Vec<OwnedFd>) -> Result<()> {
    let named = |(i, tree): (usize, OwnedFd)| (i.to_string(), tree);
    let mut left = trees.into_iter().enumerate().map(named).peekable();
    while left.peek().is_some() {
        channel.send(&Message::Trees(left.by_ref().take(MAX_FDS).collect()))?;
    }
    Ok(())
}

fn receive(channel: &Channel, wanted: usize) -> Result<Vec<OwnedFd>> {
    let mut out = Vec::with_capacity(wanted);
    while out.len() < wanted {
        let trees = channel.expect("locking the flags of mounts", |m| match m {
            Message::Trees(list) if !list.is_empty() => Ok(list),
            other => Err(other),
        })?;
        out.extend(trees.into_iter().map(|(_, tree)| tree));
    }
    Ok(out)
}

/// In the process that is made for it.
fn through(trees: &[BorrowedFd], empty: Option<&Empty>) -> Result<Vec<OwnedFd>> {
    if let Some(empty) = empty {
        empty.join()?;
    }
    proc::unshare(libc::CLONE_NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
    if empty.is_none() {
        // Of the host's mounts that were copied, those that are shared would hand on what is attached below.
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .call(|| "mount(/, MS_REC|MS_PRIVATE)")?;
    }
    let top = empty::cover()?;
    for (i, tree) in trees.iter().enumerate() {
        let name = i.to_string();
        let kind = SFlag::from_bits_truncate(fstat(tree).call(|| "fstat")?.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            mkdirat(&top, name.as_str(), Mode::S_IRWXU)
                .call(|| format!("mkdirat(tmpfs, {name})"))?;
        } else {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(&top, name.as_str(), flags, Mode::S_IRUSR)
                .call(|| format!("openat(tmpfs, {name}, O_CREAT)"))?;
        }
        let at = openat(&top, name.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .call(|| format!("openat(tmpfs, {name}, O_PATH)"))?;
        conex_sys::mount::move_mount(*tree, at.as_fd()).call(|| "move_mount(fd, tmpfs)")?;
    }
    // Here they are locked. The working directory is that of the copy from now on.
    proc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)
        .call(|| "unshare(CLONE_NEWUSER|CLONE_NEWNS)")?;
    (0..trees.len())
        .map(|i| tree::bind(tree::cwd(), Path::new(&i.to_string()), true).map(|Tree(fd)| fd))
        .collect()
}
