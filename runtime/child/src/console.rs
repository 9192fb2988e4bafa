//! The terminal: a pair of the container's own devpts, /dev/console, the three standard descriptors.

use super::Report;
use crate::acts::tree;
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::process::Process;
use crate::plan::Plan;
use crate::root::Root;
use conex_sys::fd::{openat2, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use conex_sys::{fd, tty};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Master and slave of a new pseudo-terminal.
pub struct Pair {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Makes the terminal of the container's init and binds it to /dev/console. The slave becomes 0, 1 and 2 at once;
/// the master goes to the host in a message of its own.
pub(super) fn attach(root: &Root, plan: &Plan, report: &Report) -> Result<()> {
    if !plan.process.terminal {
        return Ok(());
    }
    let pair = open(root.as_fd(), &plan.process).at(|| "process.terminal")?;
    let target = root.make_file(Path::new("dev/console")).at(|| "process.terminal")?;
    tree::bind(pair.slave.as_fd(), Path::new(""), false)
        .and_then(|t| t.attach(target.as_fd()))
        .during("bind the terminal to /dev/console")
        .at(|| "process.terminal")?;
    own(&pair.slave)?;
    report.sync()?.send(&crate::sync::Message::Terminal(pair.master))
}

/// Opens a pair from the devpts below `root` (the rootfs, or `/` for exec).
///
/// The image decides what lies at /dev/ptmx and may swap it, so: no symlink is followed, the file must be the ptmx
/// of a devpts, and the slave comes from the master by ioctl, not by its name (CVE-2025-52565).
pub fn open(root: BorrowedFd, p: &Process) -> Result<Pair> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = Path::new("dev/pts/ptmx");
    let master = openat2(root, path, flags.bits(), 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
        .call(|| "open(/dev/pts/ptmx): a terminal needs a devpts mounted on /dev/pts")?;
    let stat = fstat(&master).call(|| "fstat(/dev/pts/ptmx)")?;
    let magic = fstatfs(&master).call(|| "fstatfs(/dev/pts/ptmx)")?.filesystem_type().0 as i64;
    if magic != DEVPTS_SUPER_MAGIC || stat.st_rdev != libc::makedev(5, 2) {
        return Err(Error::new(Kind::System, "/dev/pts/ptmx is not the ptmx of a devpts"));
    }
    tty::unlock(master.as_fd()).call(|| "ioctl(TIOCSPTLCK)")?;
    let slave = tty::peer(master.as_fd()).call(|| "ioctl(TIOCGPTPEER)")?;
    if let Some(size) = p.console_size {
        tty::set_size(slave.as_fd(), size)
            .call(|| "ioctl(TIOCSWINSZ)")
            .at(|| format!("{}.consoleSize", p.field))?;
    }
    // Whoever types is the container's user.
    match fd::chown_fd(&slave, p.uid, u32::MAX) {
        Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
        Err(e) => return Err(Error::call(e, format!("fchown(slave, {})", p.uid))),
    }
    Ok(Pair { master, slave })
}

/// Makes the slave the controlling terminal and the three standard descriptors.
pub fn own(slave: &OwnedFd) -> Result<()> {
    tty::set_controlling(slave.as_fd()).call(|| "ioctl(TIOCSCTTY)")?;
    for n in 0..3 {
        fd::dup_to(slave.as_fd(), n).call(|| format!("dup2(slave, {n})"))?;
    }
    Ok(())
}

/// Without a terminal: gives the caller's pipes to the container's user, who could not reopen /dev/stdout otherwise; of a
/// detached process, whose they stay, files and terminals as well (runc: in the foreground it puts pipes between).
/// /dev/null and other devices are nobody's to give away.
pub fn hand_over_stdio(p: &Process) {
    if !p.terminal && (p.detached || p.uid != 0) {
        give_stdio_to(p.uid, p.detached);
    }
}

/// Changes the owner of those of 0, 1 and 2 that are pipes or sockets; with `all`, terminals and the files that are open for
/// writing too. What cannot be given away (a file system that is mounted read-only, a user namespace that does not know the
/// owner) stays as it is.
pub fn give_stdio_to(uid: u32, all: bool) {
    for n in 0..3 {
        let borrowed = fd::borrow(n);
        let Ok(stat) = fstat(borrowed) else { continue };
        let kind = stat.st_mode & libc::S_IFMT;
        let writable = || {
            let flags = nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(0);
            flags & libc::O_ACCMODE != libc::O_RDONLY
        };
        let ours = match kind {
            libc::S_IFIFO | libc::S_IFSOCK => true,
            // Who may only read it does not get it: it could be opened anew for writing.
            libc::S_IFREG => all && writable(),
            libc::S_IFCHR => all && nix::unistd::isatty(borrowed).unwrap_or(false),
            _ => false,
        };
        if stat.st_uid != uid && ours {
            let _ = fd::chown_fd(borrowed, uid, u32::MAX);
        }
    }
}
