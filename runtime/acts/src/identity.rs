//! Who a process is.
//!
//! A number names a process only in one PID namespace and only until it is reaped. So a number that comes from somebody
//! else (a file, a message, another namespace) is never opened and believed: either the kernel's own descriptor comes
//! with it ([`adopted`]), or it is compared with what was recorded when it was certain ([`pidfd`]).

use crate::error::{Context, Error, Kind, Result};
use conex_sys::proc;
use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A process that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_time: u64,
    /// The inode of its pidfd on pidfs, which no other process since boot has (Linux 6.9); 0 where it says nothing.
    #[serde(default)]
    pub inode: u64,
}

/// State letter and start time of a process.
pub fn proc_stat(pid: i32) -> Option<(char, u64)> {
    let text = crate::read_bytes(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold anything, the last parenthesis ends it.
    let rest =
        String::from_utf8_lossy(&text[text.iter().rposition(|b| *b == b')')? + 1..]).into_owned();
    let mut fields = rest.split_whitespace();
    let letter = fields.next()?.chars().next()?;
    Some((letter, fields.nth(18)?.parse().ok()?))
}

/// True if that very process runs and is no zombie.
pub fn alive(id: Identity) -> bool {
    runs(id)
        && (id.inode == 0
            || proc::pidfd_open(Pid::from_raw(id.pid))
                .map_or(true, |fd| inode(fd.as_fd()) == id.inode))
}

/// By its start time alone: two processes of one number, in two PID namespaces, can have begun in the same tick.
fn runs(id: Identity) -> bool {
    id.pid > 0
        && proc_stat(id.pid)
            .is_some_and(|(letter, start)| start == id.start_time && !matches!(letter, 'Z' | 'X'))
}

/// True if that very process will end by itself in a moment: it is on its way through exit(2), or has SIGKILL pending.
pub fn dying(id: Identity) -> bool {
    const PF_EXITING: u64 = 0x4;
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    if !alive(id) {
        return true;
    }
    let read =
        |file: &str| crate::read_bytes(format!("/proc/{}/{file}", id.pid)).unwrap_or_default();
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let pending =
        status.lines().filter_map(|l| l.strip_prefix("SigPnd:").or(l.strip_prefix("ShdPnd:")));
    let killed =
        pending.filter_map(|h| u64::from_str_radix(h.trim(), 16).ok()).any(|set| set & KILL != 0);
    flags(id.pid).is_some_and(|f| f & PF_EXITING != 0) || killed
}

/// A pidfd of that very process: opened first and compared afterwards, so that a recycled number cannot slip in.
/// `None` if it has ended.
pub fn pidfd(id: Identity) -> Result<Option<OwnedFd>> {
    if id.pid <= 0 {
        return Ok(None);
    }
    match proc::pidfd_open(Pid::from_raw(id.pid)) {
        Err(Errno::ESRCH) => Ok(None),
        // A thread that is no process: the number belongs to somebody else by now (EINVAL before Linux 6.13).
        Err(Errno::ENOENT | Errno::EINVAL) if !runs(id) => Ok(None),
        opened => {
            let fd = opened.call(|| format!("pidfd_open({})", id.pid))?;
            let same = id.inode == 0 || id.inode == inode(fd.as_fd());
            Ok((same && runs(id)).then_some(fd))
        }
    }
}

/// Waits until the process has ended, so many milliseconds at most.
pub fn await_end(id: Identity, most: u16) {
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    if let Ok(Some(fd)) = pidfd(id) {
        let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(most));
    }
}

/// True if that process has ended, or is about to, without having executed a program (PF_FORKNOEXEC of linux/sched.h).
pub fn never_executed(id: Identity) -> bool {
    const PF_FORKNOEXEC: u64 = 0x40;
    proc_stat(id.pid).is_some_and(|(_, start)| start == id.start_time)
        && flags(id.pid).is_some_and(|f| f & PF_FORKNOEXEC != 0)
}

/// Field 9 of /proc/PID/stat, the sixth after the letter (proc_pid_stat(5)).
fn flags(pid: i32) -> Option<u64> {
    let text = crate::read_bytes(format!("/proc/{pid}/stat")).ok()?;
    String::from_utf8_lossy(&text).rsplit(')').next()?.split_whitespace().nth(6)?.parse().ok()
}

/// The identity of this process or of a child that is not reaped: nobody else can have its number.
pub fn identity(pid: i32) -> Identity {
    let inode = proc::pidfd_open(Pid::from_raw(pid)).map_or(0, |fd| inode(fd.as_fd()));
    Identity { pid, start_time: proc_stat(pid).map_or(0, |s| s.1), inode }
}

/// Before Linux 6.9 all pidfds share one inode.
fn inode(pidfd: BorrowedFd) -> u64 {
    const PID_FS_MAGIC: i64 = 0x5049_4446;
    let own = nix::sys::statfs::fstatfs(pidfd)
        .is_ok_and(|s| s.filesystem_type().0 as i64 == PID_FS_MAGIC);
    nix::sys::stat::fstat(pidfd).ok().filter(|_| own).map_or(0, |s| s.st_ino)
}

/// The number of a process that another one has cloned as our child (`CLONE_PARENT`) and handed over as a descriptor.
/// The number that clone3 returned there would be that of its own PID namespace.
///
/// # Errors
/// It is no child of ours, which nobody but an attacker would send, or /proc is that of another PID namespace.
pub fn adopted(pidfd: BorrowedFd) -> Result<Pid> {
    if !proc::is_child(pidfd).call(|| "waitid(P_PIDFD, WNOWAIT)")? {
        return Err(Error::new(
            Kind::System,
            "the process that was handed over is not a child of this one",
        ));
    }
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).call(|| format!("read({path})"))?;
    let number = text
        .lines()
        .find_map(|l| l.strip_prefix("Pid:")?.trim().parse::<i32>().ok())
        .filter(|n| *n > 0);
    let number = number
        .ok_or_else(|| Error::new(Kind::System, format!("{path}: no number (Pid:) in {text:?}")))?;
    check_proc()?;
    Ok(Pid::from_raw(number))
}

/// Numbers in /proc are those of the PID namespace that it was mounted in; all calls take ours.
fn check_proc() -> Result<()> {
    let own = std::fs::read_link("/proc/self").call(|| "readlink(/proc/self)")?;
    let own = own.to_string_lossy().parse::<u32>().ok();
    if own == Some(std::process::id()) {
        return Ok(());
    }
    let what = format!(
        "/proc belongs to another PID namespace: /proc/self is {own:?}, not {}",
        std::process::id()
    );
    Err(Error::new(Kind::System, what))
}

/// The exit status of a zombie, as a shell counts: 128 + n for signal n. It is the last field of /proc/PID/stat, 0 for
/// whoever may not look into the process (PTRACE_MODE_READ_FSCREDS), so that only root's 0 is believed.
pub fn zombie_status(id: Identity) -> Option<i32> {
    let before =
        proc_stat(id.pid).filter(|(letter, start)| *letter == 'Z' && *start == id.start_time)?;
    let text = crate::read_bytes(format!("/proc/{}/stat", id.pid)).ok()?;
    let status: i32 = String::from_utf8_lossy(&text).trim_end().rsplit(' ').next()?.parse().ok()?;
    let same = proc_stat(id.pid) == Some(before);
    (same && (status != 0 || nix::unistd::geteuid().is_root())).then(|| shell_status(status))
}

fn shell_status(wait: i32) -> i32 {
    if wait & 0x7f == 0 {
        wait >> 8 & 0xff
    } else {
        128 + (wait & 0x7f)
    }
}

/// How the process behind a descriptor that is ready ended; `None` if nobody tells any more: it is reaped, and the kernel
/// is older than Linux 6.15.
pub fn exit_status(id: Identity, pidfd: BorrowedFd) -> Option<i32> {
    for _ in 0..200 {
        match (proc::pidfd_exit_status(pidfd), zombie_status(id)) {
            (Ok(Some(status)), _) => return Some(shell_status(status)),
            (_, Some(status)) => return Some(status),
            (Ok(None), None) => std::thread::sleep(std::time::Duration::from_millis(1)),
            (Err(_), None) => break,
        }
    }
    None
}

/// The PID namespace of this process, by its inode on nsfs (namespaces(7)); 0 if it cannot be told.
pub fn pid_namespace() -> u64 {
    nix::sys::stat::stat("/proc/self/ns/pid").map_or(0, |s| s.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_until_the_start_time_differs() {
        let me = identity(std::process::id() as i32);
        assert!(alive(me));
        assert!(!alive(Identity { start_time: me.start_time + 1, ..me }));
        assert!(pidfd(me).unwrap().is_some());
        assert!(me.inode == 0 || pidfd(Identity { inode: me.inode + 1, ..me }).unwrap().is_none());
        assert!(pidfd(Identity { start_time: me.start_time + 1, ..me }).unwrap().is_none());
        assert!(pidfd(Identity::default()).unwrap().is_none());
    }

    #[test]
    fn only_a_child_is_adopted() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let fd = proc::pidfd_open(Pid::from_raw(child.id() as i32)).unwrap();
        assert_eq!(adopted(fd.as_fd()).unwrap().as_raw() as u32, child.id());
        child.kill().unwrap();
        // A zombie still has its number.
        assert_eq!(adopted(fd.as_fd()).unwrap().as_raw() as u32, child.id());
        child.wait().unwrap();
        assert!(adopted(fd.as_fd()).is_err());
        let me = proc::pidfd_open(Pid::from_raw(std::process::id() as i32)).unwrap();
        assert!(adopted(me.as_fd()).unwrap_err().what.contains("not a child"));
    }
}
