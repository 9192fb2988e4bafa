//! Signals as execve leaves them.

/// Puts every signal back to its default action. Rust ignores SIGPIPE and a caller may ignore others; an ignored
/// signal stays ignored across execve, and a container must not inherit that.
pub fn reset_all() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: SIG_DFL is always a valid disposition; glibc's two internal signals return EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Gives a program that will be spawned an empty signal mask: a runtime that waits in the foreground blocks every
/// signal, and the mask survives execve.
pub fn unblocked(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let empty = || {
        let none = nix::sys::signal::SigSet::empty();
        nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)
            .map_err(std::io::Error::from)
    };
    // SAFETY: the closure makes one async-signal-safe call and touches no memory of the parent's.
    unsafe { command.pre_exec(empty) };
}

/// Ignores one signal (SIGTTOU while the terminal is being restored).
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is always a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Ends this process when one of the signals comes, with the status that a shell gives it (128 and its number); one that
/// is ignored stays so. execve forgets it.
pub fn end_by(signals: &[i32]) {
    extern "C" fn end(signal: i32) {
        // SAFETY: async-signal-safe, and does not return.
        unsafe { libc::_exit(128 + signal) }
    }
    for signal in signals {
        // SAFETY: the handler is a function of the right type that calls nothing but _exit(2).
        unsafe {
            if libc::signal(*signal, end as *const () as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(*signal, libc::SIG_IGN);
            }
        }
    }
}

/// `bad system call (31)`: what the C library calls a signal, and its number.
pub fn described(signal: i32) -> String {
    // SAFETY: strsignal(3) returns a string that is terminated, for any number; this process has one thread.
    let text = unsafe { std::ffi::CStr::from_ptr(libc::strsignal(signal)) };
    format!("{} ({signal})", text.to_string_lossy().to_lowercase())
}
