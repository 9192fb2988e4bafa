//! The system calls that `nix` lacks, as safe functions that return `nix::Result`.
//!
//! This is the only crate of the workspace with `unsafe`. Every block names the invariant it rests on and who
//! keeps it. Functions take and return owned or borrowed descriptors, never raw numbers, except where the number
//! itself is the subject (`close_range`).

pub mod bpf;
pub mod clone;
#[cfg(target_arch = "x86_64")]
pub mod early;
pub mod exec;
pub mod fd;
pub mod loopdev;
pub mod mount;
pub mod proc;
#[cfg(feature = "tokio")]
pub mod ready;
pub mod sched;
pub mod seccomp;
pub mod signal;
mod stack;
pub mod tty;

use nix::errno::Errno;
use nix::Result;

/// Turns the return value of `libc::syscall` into a result: -1 means that errno holds the reason.
fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret == -1 {
        Err(Errno::last())
    } else {
        Ok(ret)
    }
}
