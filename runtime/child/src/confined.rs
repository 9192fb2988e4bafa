//! What this process can do and say once its seccomp filter is loaded.
//!
//! A process that is killed for a call leaves nothing by which whoever started it could tell that from a program that ran and
//! has ended. So the filter is asked before it is loaded, and where it will not let the process speak, its last words go
//! through memory.

use crate::error::{Context, Error, Result};
use crate::plan::process::Process;
use crate::seccomp::{bpf, ACTION_MASK, RET_ALLOW, RET_LOG, RET_NOTIFY};
use crate::sync::{Channel, Message};
use conex_sys::exec::{Execve, Words};
use conex_sys::seccomp::Insn;
use std::os::fd::{AsFd, AsRawFd};

/// True if the filter lets a call through. Nobody traces this process, so that the kernel answers a traced call with ENOSYS.
fn allows(program: &[Insn], call: libc::c_long, registers: [u64; 6]) -> bool {
    let action = bpf::run(program, bpf::NATIVE, call as u32, registers) & ACTION_MASK;
    matches!(action, RET_ALLOW | RET_LOG | RET_NOTIFY)
}

/// Asks the filter about the calls that are still to be made under it, with their arguments: rules on the name alone were
/// judged with the document.
///
/// # Errors
/// It denies one of them, so that the program would never run.
pub(super) fn judge(p: &Process, program: &[Insn], execve: &Execve) -> Result<()> {
    // Any address on the stack: what it points to does not exist yet.
    let somewhere = (&raw const p).cast::<u8>() as u64;
    let mut calls = vec![("execve", libc::SYS_execve, execve.registers())];
    if !p.no_new_privileges {
        // The capabilities go after the filter has come.
        calls.push(("capget", libc::SYS_capget, [somewhere, somewhere, 0, 0, 0, 0]));
        calls.push(("capset", libc::SYS_capset, [somewhere, somewhere, 0, 0, 0, 0]));
        const RAISE: u64 = libc::PR_CAP_AMBIENT_RAISE as u64;
        let ambient = p.capabilities.ambient.iter().map(|cap| {
            ("prctl", libc::SYS_prctl, [libc::PR_CAP_AMBIENT as u64, RAISE, u64::from(cap.index()), 0, 0, 0])
        });
        calls.extend(ambient);
    }
    match calls.into_iter().find(|(_, call, registers)| !allows(program, *call, *registers)) {
        None => Ok(()),
        Some((name, _, _)) => {
            let what = format!(
                "denies {name} by a rule on its arguments, which the runtime still calls under it to start the program: \
                allow it"
            );
            Err(Error::invalid("linux.seccomp", what))
        }
    }
}

/// Where the error of a failed execve goes if the filter will not let this process send it; the other side is told at once.
pub(super) fn words(program: &[Insn], channel: &Channel) -> Result<Option<Words>> {
    let somewhere = (&raw const channel).cast::<u8>() as u64;
    let fd = channel.as_fd().as_raw_fd() as u64;
    if allows(program, libc::SYS_sendmsg, [fd, somewhere, libc::MSG_NOSIGNAL as u64, 0, 0, 0]) {
        return Ok(None);
    }
    let (words, fd) = Words::new().call(|| "memfd_create, mmap")?;
    channel.send(&Message::Words(fd))?;
    Ok(Some(words))
}
