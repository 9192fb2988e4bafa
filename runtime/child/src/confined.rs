//! What this process can do and say once its seccomp filter is loaded.
//!
//! A process that is killed for a call leaves nothing by which whoever started it could tell that from a program that ran and
//! has ended. So the filter is asked before it is loaded, and where it will not let the process speak, its last words go
//! through memory.

use crate::error::{Error, Result};
use crate::plan::process::Process;
use crate::seccomp::{bpf, ACTION_MASK, RET_ALLOW, RET_ERRNO, RET_LOG, RET_NOTIFY, RET_TRACE};
use crate::sync::{Channel, Message};
use conex_sys::exec::{Execve, Words};
use conex_sys::seccomp::SockFilter;
use std::os::fd::{AsFd, AsRawFd};

fn action(program: &[SockFilter], call: libc::c_long, registers: [u64; 6]) -> u32 {
    bpf::run(program, bpf::NATIVE, call as u32, registers) & ACTION_MASK
}

/// True if the filter lets a call through. Nobody traces this process, so that the kernel answers a traced call with ENOSYS.
fn allows(program: &[SockFilter], call: libc::c_long, registers: [u64; 6]) -> bool {
    matches!(action(program, call, registers), RET_ALLOW | RET_LOG | RET_NOTIFY)
}

/// True if the process lives on, whatever it is answered.
fn survives(program: &[SockFilter], call: libc::c_long, registers: [u64; 6]) -> bool {
    allows(program, call, registers)
        || matches!(action(program, call, registers), RET_ERRNO | RET_TRACE)
}

/// Asks the filter about the calls that are still to be made under it, with their arguments: rules on the name alone were
/// judged with the document.
///
/// # Errors
/// It denies one of them, so that the program would never run.
pub(super) fn judge(p: &Process, program: &[SockFilter], execve: &Execve) -> Result<()> {
    // Any address on the stack: what it points to does not exist yet.
    let somewhere = (&raw const p).cast::<u8>() as u64;
    let ambient = |what: i32, cap: u64| [libc::PR_CAP_AMBIENT as u64, what as u64, cap, 0, 0, 0];
    let mut calls = vec![("execve", libc::SYS_execve, execve.registers())];
    if !p.no_new_privileges {
        // The capabilities go after the filter has come.
        calls.push(("capget", libc::SYS_capget, [somewhere, somewhere, 0, 0, 0, 0]));
        calls.push(("capset", libc::SYS_capset, [somewhere, somewhere, 0, 0, 0, 0]));
        let raise = |cap: u8| ambient(libc::PR_CAP_AMBIENT_RAISE, u64::from(cap));
        calls.extend(
            p.capabilities.ambient.iter().map(|cap| ("prctl", libc::SYS_prctl, raise(cap.index()))),
        );
    }
    // The ambient set is looked at in any case, and cleared; an error is no obstacle where there is none.
    let looks =
        [ambient(libc::PR_CAP_AMBIENT_IS_SET, 0), ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)];
    let killed =
        !p.no_new_privileges && looks.iter().any(|r| !survives(program, libc::SYS_prctl, *r));
    let denied = calls.into_iter().find(|(_, call, registers)| !allows(program, *call, *registers));
    match denied.map(|(name, _, _)| name).or(killed.then_some("prctl")) {
        None => Ok(()),
        Some(name) => {
            let what = format!(
                "denies {name} by a rule on its arguments, which the runtime still calls under it to start the program: \
                allow it"
            );
            Err(Error::invalid("linux.seccomp", what))
        }
    }
}

/// Where the error of a failed execve goes if the filter will not let this process send it; the other side is told at once.
pub(super) fn words(program: &[SockFilter], channel: &Channel) -> Result<Option<Words>> {
    let somewhere = (&raw const channel).cast::<u8>() as u64;
    let fd = channel.as_fd().as_raw_fd() as u64;
    if allows(program, libc::SYS_sendmsg, [fd, somewhere, libc::MSG_NOSIGNAL as u64, 0, 0, 0]) {
        return Ok(None);
    }
    // Without that memory a failure has no words, and is known by the process's end alone.
    let Ok((words, fd)) = Words::new() else { return Ok(None) };
    channel.send(&Message::Words(fd))?;
    Ok(Some(words))
}
