//! Loading a classic BPF program with seccomp(2).

use crate::check;
use nix::Result;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub const FLAG_LOG: u64 = 2;
pub const FLAG_SPEC_ALLOW: u64 = 4;
pub const FLAG_NEW_LISTENER: u64 = 8;
pub const FLAG_WAIT_KILLABLE_RECV: u64 = 32;

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Insn {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct Prog {
    len: u16,
    filter: *const Insn,
}

/// Installs the filter on the calling process. With [`FLAG_NEW_LISTENER`] the result is the notification
/// descriptor.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN or no_new_privs, `EINVAL` for a bad program or flag, `EBUSY` if a listener
/// exists already.
pub fn install(program: &[Insn], flags: u64) -> Result<Option<OwnedFd>> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let len = u16::try_from(program.len()).map_err(|_| nix::errno::Errno::EINVAL)?;
    let prog = Prog { len, filter: program.as_ptr() };
    // SAFETY: prog points to len instructions that outlive the call.
    let ret =
        check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog as *const Prog) })?;
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
    unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action as *const u32) == 0 }
}
