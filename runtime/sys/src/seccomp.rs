//! Loading a classic BPF program with seccomp(2).

use crate::check;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub const FLAG_LOG: u64 = 2;
pub const FLAG_SPEC_ALLOW: u64 = 4;
pub const FLAG_NEW_LISTENER: u64 = 8;
pub const FLAG_WAIT_KILLABLE_RECV: u64 = 32;

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct Prog {
    len: u16,
    filter: *const SockFilter,
}

/// Installs the filter on the calling process. With [`FLAG_NEW_LISTENER`] the result is the notification
/// descriptor.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN or no_new_privs, `EINVAL` for a bad program or flag, `EBUSY` if a listener
/// exists already.
pub fn install(program: &[SockFilter], flags: u64) -> Result<Option<OwnedFd>> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let len = u16::try_from(program.len()).map_err(|_| nix::errno::Errno::EINVAL)?;
    let prog = Prog { len, filter: program.as_ptr() };
    // SAFETY: prog points to len instructions that outlive the call.
    let ret = check(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog as *const Prog)
    })?;
    if flags & FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the kernel returns a fresh descriptor.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as RawFd) }))
}

/// True if the kernel knows the return action (SECCOMP_GET_ACTION_AVAIL, Linux 4.14).
pub fn action_available(action: u32) -> bool {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    // SAFETY: the kernel reads one u32.
    unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action as *const u32) == 0
    }
}

/// A call that waits for its listener's answer (`struct seccomp_notif` of linux/seccomp.h).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Asked {
    pub id: u64,
    /// In the reader's PID namespace.
    pub pid: u32,
    flags: u32,
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    ip: u64,
    pub args: [u64; 6],
}

/// What a listener answers.
pub enum Answer {
    /// The call is made, with the registers that were judged.
    Go,
    Fail(i32),
}

/// `_IOWR('!', number, size)` (asm-generic/ioctl.h).
const fn listener_call(number: u32, size: usize) -> libc::Ioctl {
    (3 << 30 | (size as u32) << 16 | 0x21 << 8 | number) as libc::Ioctl
}

/// Waits for a call (SECCOMP_IOCTL_NOTIF_RECV, Linux 5.0).
///
/// # Errors
/// `ENOENT` if the process was killed meanwhile.
pub fn next(listener: BorrowedFd) -> Result<Asked> {
    // The kernel takes only a buffer of zeros.
    let mut asked = Asked::default();
    let request = listener_call(0, std::mem::size_of::<Asked>());
    // SAFETY: asked has the layout of the kernel's structure, and the size that the request number carries.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), request, &mut asked) } as libc::c_long)?;
    Ok(asked)
}

/// Answers a call (SECCOMP_IOCTL_NOTIF_SEND; to let it go on, Linux 5.5).
///
/// # Errors
/// `ENOENT` if nobody waits for the answer any more.
pub fn answer(listener: BorrowedFd, id: u64, answer: Answer) -> Result<()> {
    // struct seccomp_notif_resp.
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    const FLAG_CONTINUE: u32 = 1;
    let (error, flags) = match answer {
        Answer::Go => (0, FLAG_CONTINUE),
        Answer::Fail(errno) => (-errno, 0),
    };
    let mut response = Response { id, value: 0, error, flags };
    let request = listener_call(1, std::mem::size_of::<Response>());
    // SAFETY: response has the layout of the kernel's structure, and the size that the request number carries.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), request, &mut response) } as libc::c_long)
        .map(drop)
}

/// True if the process that asked still waits for the answer, so that its number is its own
/// (SECCOMP_IOCTL_NOTIF_ID_VALID, by the number that every kernel takes).
pub fn waits(listener: BorrowedFd, id: u64) -> bool {
    // _IOR('!', 2, __u64); the direction was wrong before Linux 5.8, and is taken since as well.
    let request = (2 << 30 | 8 << 16 | 0x21 << 8 | 2) as libc::Ioctl;
    // SAFETY: the kernel reads one u64.
    unsafe { libc::ioctl(listener.as_raw_fd(), request, &id) == 0 }
}
