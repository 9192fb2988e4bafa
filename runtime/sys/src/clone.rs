//! `clone3(2)`: one process with all its namespaces, its pidfd and its cgroup in a single call.

use crate::check;
use nix::errno::Errno;
use nix::unistd::Pid;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Starts a program without waiting until it is executed, which `Command::spawn` does. What then fails is seen by nobody.
///
/// # Errors
/// Those of clone3(2). The caller is single-threaded, as for [`clone3`].
pub fn spawn_unseen(mut command: std::process::Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    match clone3(0, None)? {
        Forked::Child => {
            let _ = command.exec();
            exit_now(127)
        }
        Forked::Parent { .. } => Ok(()),
    }
}

/// Which side of the fork the caller is on.
pub enum Forked {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// Linux 5.7: the child starts in the cgroup of `clone_args.cgroup`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks with `flags` (`CLONE_NEW*`, `CLONE_PARENT`), always with `CLONE_PIDFD`.
///
/// With `cgroup`, a descriptor of a cgroup v2 directory, the child is born in it (Linux 5.7). Where the kernel
/// has no `clone3` (a filter around the runtime answers ENOSYS) and no cgroup is asked for, `clone(2)`
/// does the same.
///
/// The child is a copy of the whole address space, so the caller must be single-threaded: a lock that another
/// thread held at this moment would never be released in the child.
///
/// # Errors
/// Those of clone3(2); `EOPNOTSUPP`/`EBUSY` for a threaded cgroup or one that has controllers for its children.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd>) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let parent = flags & libc::CLONE_PARENT as u64 != 0;
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &mut pidfd as *mut libc::c_int as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT the kernel takes the caller's own exit signal and insists on 0 here.
        exit_signal: if parent { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args lives across the call and has the kernel's layout (libc's definition). Without CLONE_VM the
    // child gets a copy of the address space and returns here like fork(2); the caller is single-threaded
    // (documented above, kept by the runtime never starting a thread), so no lock is held by a vanished thread.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &mut args as *mut libc::clone_args,
            size_of::<libc::clone_args>(),
        )
    };
    let ret = match check(ret) {
        Err(Errno::ENOSYS) if cgroup.is_none() => legacy_clone(flags, &mut pidfd)?,
        other => other?,
    };
    if ret == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: on success the kernel stored a fresh descriptor in pidfd, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: Pid::from_raw(ret as i32), pidfd })
}

fn legacy_clone(flags: u64, pidfd: &mut libc::c_int) -> Result<libc::c_long> {
    let flags = flags | libc::CLONE_PIDFD as u64 | libc::SIGCHLD as u64;
    // SAFETY: as for clone3: no CLONE_VM and no new stack, so this returns twice like fork(2). The third argument
    // is where CLONE_PIDFD stores the descriptor; the order (flags, stack, parent_tid) is the same on x86-64,
    // arm64 and riscv for these three arguments.
    check(unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            0usize,
            pidfd as *mut libc::c_int,
            0usize,
            0usize,
        )
    })
}

/// Ends the process at once: no destructors, no flushing. For children that must not run the parent's clean-up.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(code) }
}

/// Replaces the program by what `fd` refers to (execveat with `AT_EMPTY_PATH`); returns only on error.
pub fn fexecve(fd: BorrowedFd, args: &[std::ffi::CString], env: &[std::ffi::CString]) -> Errno {
    let ptrs = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        let mut v: Vec<_> = list.iter().map(|s| s.as_ptr()).collect();
        v.push(std::ptr::null());
        v
    };
    let (argv, envp) = (ptrs(args), ptrs(env));
    // SAFETY: both arrays are NULL-terminated and their strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}
