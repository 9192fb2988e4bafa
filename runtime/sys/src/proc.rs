//! Processes: pidfds, namespaces, prctl, keys, identity.

use crate::check;
use nix::errno::Errno;
use nix::unistd::Pid;
use nix::Result;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// pidfd_open(2), Linux 5.3.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: integers only; the returned descriptor is fresh (and close-on-exec by definition).
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_send_signal(2), Linux 5.1.
pub fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32) -> Result<()> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means the same as kill(2).
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, null, 0) })
        .map(drop)
}

/// kill(2) with any number, real-time signals included.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::kill(pid.as_raw(), signal) } as libc::c_long).map(drop)
}

/// pidfd_getfd(2), Linux 5.6: a duplicate of descriptor `fd` of that process.
pub fn pidfd_getfd(pidfd: BorrowedFd, fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: integers only; the returned descriptor is fresh.
    check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// setns(2) with any `CLONE_NEW*` bits: one for a namespace descriptor, several for a pidfd (Linux 5.8).
pub fn setns(fd: BorrowedFd, flags: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) } as libc::c_long).map(drop)
}

/// unshare(2) with any bits, `CLONE_NEWTIME` included.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::unshare(flags) } as libc::c_long).map(drop)
}

/// prctl(2) with plain integers.
fn prctl(op: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> Result<libc::c_long> {
    // SAFETY: the callers below use only operations whose arguments are integers.
    check(unsafe { libc::prctl(op, a, b, 0, 0) } as libc::c_long)
}

/// membarrier(2), MEMBARRIER_CMD_GLOBAL: returns after one RCU grace period.
pub fn membarrier_global() -> Result<()> {
    const GLOBAL: i32 = 1;
    // SAFETY: the call takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) }).map(drop)
}

pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, on as libc::c_ulong, 0).map(drop)
}

pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

pub fn set_keepcaps(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, on as libc::c_ulong, 0).map(drop)
}

/// True if a capability, by its number, is in the bounding set; `EINVAL` beyond the kernel's last one.
pub fn bounding_has(capability: u32) -> Result<bool> {
    prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0).map(|v| v == 1)
}

pub fn bounding_drop(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0).map(drop)
}

pub fn set_child_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// The signal this process gets when its parent dies; 0 for none.
pub fn set_pdeathsig(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0).map(drop)
}

/// setgroups(2) without glibc's thread broadcast.
pub fn setgroups(gids: &[u32]) -> Result<()> {
    // SAFETY: the slice is valid for its length.
    check(unsafe { libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) }).map(drop)
}

pub fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

pub fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Joins a new session keyring of that name, so that the caller's keys are out of reach. Returns its serial.
pub fn join_session_keyring(name: &str) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: NUL-terminated, outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(|v| v as i32)
}

/// Gives the container's user search permission on the session keyring: KEYCTL_DESCRIBE, then KEYCTL_SETPERM.
pub fn keyring_allow_user_search(serial: i32) -> Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    // Possessor all, user view|read|search: what a session keyring needs to be usable after setuid.
    const PERM: u32 = 0x3f00_0000 | 0x000b_0000;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, PERM) }).map(drop)
}

/// What waitid(2) says of a child: that it runs still, its exit status, or the number of the signal that ended it.
pub enum Waited {
    Running,
    Exited(i32),
    Signaled(i32),
}

/// waitid(P_PIDFD) (Linux 5.4) until the child has ended, or only a look if `nohang`; reaps one that has ended.
pub fn wait_pidfd(pidfd: BorrowedFd, nohang: bool) -> Result<Waited> {
    waitid(pidfd, libc::WEXITED | if nohang { libc::WNOHANG } else { 0 })
}

/// The same without waiting and without reaping.
pub fn peek_pidfd(pidfd: BorrowedFd) -> Result<Waited> {
    waitid(pidfd, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

fn waitid(pidfd: BorrowedFd, flags: i32) -> Result<Waited> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: info is a siginfo_t the kernel fills.
        let ret = unsafe {
            libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, info.as_mut_ptr(), flags)
        };
        match check(ret as libc::c_long) {
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e),
            Ok(_) => break,
        }
    }
    // SAFETY: zero-initialised, then filled by the kernel; for WNOHANG without a child it stays zero, and the
    // accessors only read plain integers of the SIGCHLD variant.
    let (pid, code, status) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_code, info.si_status())
    };
    Ok(match (pid, code) {
        (0, _) => Waited::Running,
        (_, libc::CLD_EXITED) => Waited::Exited(status),
        _ => Waited::Signaled(status),
    })
}

/// True if the process behind the descriptor is a child of the caller that is not reaped yet, whether it runs or has ended
/// (waitid(2) with `WNOWAIT` leaves it as it is).
pub fn is_child(pidfd: BorrowedFd) -> Result<bool> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: info is a siginfo_t the kernel fills; it is not looked at.
    let ret =
        unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, info.as_mut_ptr(), flags) };
    match check(ret as libc::c_long) {
        Ok(_) => Ok(true),
        Err(Errno::ECHILD) => Ok(false),
        Err(e) => Err(e),
    }
}

/// personality(2) with the given domain bits.
pub fn personality(domain: u64) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}

/// The resource limits of another process (prlimit64), `u64::MAX` meaning unlimited.
pub fn set_rlimit(pid: Pid, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let null = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: new has the kernel's layout and outlives the call; no old value is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.as_raw(),
            resource,
            &new as *const libc::rlimit64,
            null,
        )
    })
    .map(drop)
}

/// Lets a program start with these limits, which are not its parent's.
pub fn rlimit_at_birth(command: &mut std::process::Command, resource: u32, soft: u64, hard: u64) {
    use std::os::unix::process::CommandExt;
    let set = move || set_rlimit(Pid::from_raw(0), resource, soft, hard).map_err(Into::into);
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) };
}

/// The soft and hard limit of another process.
pub fn rlimit(pid: Pid, resource: u32) -> Result<(u64, u64)> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let null = std::ptr::null::<libc::rlimit64>();
    // SAFETY: old has the kernel's layout and outlives the call; no new value is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.as_raw(),
            resource,
            null,
            &mut old as *mut libc::rlimit64,
        )
    })?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// `struct utsname` fields by the kernel: sethostname and setdomainname.
pub fn setdomainname(name: &str) -> Result<()> {
    // SAFETY: pointer and length describe the string.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } as libc::c_long)
        .map(drop)
}

/// Gives back the resident pages of the program's own text and read-only data: they are unmodified file pages, and the
/// next access reads them from the page cache again.
pub fn drop_program_pages() {
    extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    // The linker defines both symbols; only their addresses are taken.
    let (from, to) = (&raw const __executable_start as usize, &raw const etext as usize);
    let page = 4096;
    let from = from.next_multiple_of(page);
    let len = (to & !(page - 1)).saturating_sub(from);
    // SAFETY: the range is the file-backed, private, never written mapping of headers, read-only data and text; for
    // such a mapping MADV_DONTNEED only drops page table entries, the content stays what the file holds.
    unsafe { libc::madvise(from as *mut libc::c_void, len, libc::MADV_DONTNEED) };
}

/// The wait status (wait(2)) of a process that has been reaped, by its pidfd: `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`,
/// Linux 6.15. `None` while it is not reaped yet; `ENOTTY` or `EINVAL` on older kernels.
pub fn pidfd_exit_status(pidfd: BorrowedFd) -> Result<Option<i32>> {
    // struct pidfd_info (include/uapi/linux/pidfd.h) up to the core dump mask: 72 bytes, as of Linux 6.16; the kernel
    // takes any size from 64 on.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 3],
        credentials: [u32; 8],
        exit_code: i32,
        coredump: [u32; 2],
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info), asm-generic/ioctl.h.
    const GET_INFO: libc::Ioctl =
        (3 << 30 | (std::mem::size_of::<Info>() as u32) << 16 | 0xff << 8 | 11) as libc::Ioctl;
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: info has the layout of the kernel's structure in the size that the request number carries; the kernel
    // fills no more than that.
    match check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &mut info) } as libc::c_long) {
        // A process that runs has no exit information.
        Ok(_) => Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)),
        Err(Errno::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}
